#include "cli/inspect.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/formatted.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "core/errors.h"
#include "core/text.h"
#include "formats/checkpoint_names.h"
#include "model/load.h"
#include "model/parameter_counts.h"
#include "runtime/memory_plan.h"

namespace linnet::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using model::ModelConfig;
using model::ParameterCounts;

struct Subject {
  std::optional<model::LoadedModel> loaded;  // a checkpoint,
  std::unique_ptr<model::KimiLinear> bare;   // or only a configuration
  const model::KimiLinear& model() const { return loaded ? *loaded->model : *bare; }
};

struct Facts {
  ParameterCounts counts;
  runtime::MemoryPlan memory;
  int64_t context = 0, tokens_per_pass = 0;
  bool has_weights = false;
  DType cache_dtype = DType::bf16;
};

bool has_weights(const fs::path& dir) {
  return fs::exists(dir / formats::kSingleName) || fs::exists(dir / formats::kIndexName);
}

Subject open_subject(const InspectArgs& args, ThreadPool& pool) {
  Subject subject;
  const bool folder = fs::is_directory(args.model);
  if (folder && has_weights(args.model)) {
    subject.loaded = model::load_model(args.model, {.check_values = false}, pool);
    if (!args.check) return subject;
    ProgressLine progress("checking weights", "bytes");
    const std::string bad = model::find_bad_weight(*subject.loaded, pool,
                                                   [&](int64_t done, int64_t total) { progress.update(done, total); });
    if (!bad.empty()) throw FormatError(bad);
    return subject;
  }
  if (args.check) throw InvalidArgument(cat("--check: expected a folder with weights, got ", args.model.string()));
  ModelConfig config = model::read_config(folder ? args.model / "config.json" : args.model);
  const DType cache = config.dtype == DType::f32 ? DType::f32 : DType::bf16;
  subject.bare = std::make_unique<model::KimiLinear>(std::move(config), cache);
  return subject;
}

Facts gather(const Subject& subject, const InspectArgs& args) {
  const ModelConfig& config = subject.model().config();
  if (args.context < 0) throw InvalidArgument(cat("--context: expected 1 or more tokens, got ", args.context));
  Facts facts{.counts = model::count_parameters(subject.model()), .has_weights = subject.loaded.has_value()};
  facts.context = args.context > 0 ? args.context : config.context;
  facts.tokens_per_pass = args.tokens_per_pass > 0 ? args.tokens_per_pass : runtime::default_tokens_per_pass(config);
  facts.memory = runtime::plan_memory(subject.model(), facts.tokens_per_pass);
  if (subject.loaded) facts.cache_dtype = subject.loaded->cache_dtype;
  else if (config.dtype == DType::f32) facts.cache_dtype = DType::f32;
  return facts;
}

std::vector<int64_t> layers_of(const ModelConfig& config, const std::string& mixer) {
  std::vector<int64_t> layers;
  for (int64_t l = 0; l < config.n_layers(); ++l)
    if (config.mixers[static_cast<size_t>(l)] == mixer) layers.push_back(l + 1);
  return layers;
}

int64_t n_moe_layers(const ModelConfig& config) {
  return std::count(config.ffns.begin(), config.ffns.end(), model::FfnKind::moe);
}

std::string list_text(const std::vector<int64_t>& numbers) {
  std::string text;
  for (int64_t n : numbers) text += cat(text.empty() ? "" : ", ", n);
  return text;
}

// "name            value"
std::string line(const char* name, const std::string& value) { return cat(formatted("%-16s", name), value, "\n"); }

std::string architecture_lines(const ModelConfig& c) {
  std::string text = line("model", cat("Kimi Linear, ", c.n_layers(), " layers, hidden ", c.hidden, ", vocabulary ",
                                       count(c.vocab_size), ", context ", count(c.context), " tokens"));
  for (const char* mixer : {"kda", "gdn"})
    if (const size_t n = layers_of(c, mixer).size(); n > 0)
      text +=
          line(mixer == std::string_view("kda") ? "KDA" : "GDN",
               cat(n, " layers: ", c.kda.heads, " heads of ", c.kda.head_dim, ", convolution ", c.kda.conv_width, ", ",
                   c.kda.gate == ops::DecayGateKind::softplus ? "softplus gate"
                                                              : cat("gate bounded below by ", c.kda.gate_lower_bound)));
  const std::vector<int64_t> mla = layers_of(c, "mla");
  if (!mla.empty())
    text += line("MLA", cat(mla.size(), " layers (", list_text(mla), "): ", c.mla.heads, " heads, keys ", c.mla.key_dim,
                            "+", c.mla.shared_key_dim, ", values ", c.mla.value_dim, ", latent ", c.mla.latent_rank));
  if (const int64_t n = n_moe_layers(c); n > 0)
    text += line("experts", cat(n, " layers: ", c.moe.experts_per_token, " of ", c.moe.experts, " experts of width ",
                                c.moe.width, ", ", c.moe.shared_experts, " shared"));
  if (const int64_t n = c.n_layers() - n_moe_layers(c); n > 0)
    text += line("dense", cat(n, n == 1 ? " layer" : " layers", " of width ", c.dense_width));
  return text;
}

std::string parameter_lines(const Facts& facts) {
  std::string text = "\nparameters                     total    active per token         bytes\n";
  const auto row = [&](const char* name, const ParameterCounts::Count& c) {
    if (c.parameters > 0)
      text += formatted("%-20s %15s %19s %13s\n", name, count(c.parameters).c_str(), count(c.active_parameters).c_str(),
                        size(c.bytes).c_str());
  };
  for (int g = 0; g < model::kParameterGroups; ++g) {
    const auto group = static_cast<model::ParameterGroup>(g);
    row(model::name_of(group), facts.counts.of(group));
  }
  row("all", facts.counts.total);
  return text;
}

std::string memory_lines(const Facts& facts) {
  const runtime::MemoryPlan& m = facts.memory;
  std::string text = "\nmemory\n";
  text += line("weights", cat(size(m.weight_bytes), facts.has_weights ? ", mapped from the files" : ""));
  text += line("state", cat(size(m.state_bytes_per_sequence), " a sequence and ", count(m.state_bytes_per_token()),
                            " bytes a token (latent in ", name_of(facts.cache_dtype), ")"));
  text += line("", cat(size(m.state_bytes(facts.context)), " at a context of ", count(facts.context)));
  text += line("activations", cat(size(m.activation_bytes), " at ", count(facts.tokens_per_pass), " tokens a pass"));
  text += line("together", size(m.weight_bytes + m.state_bytes(facts.context) + m.activation_bytes));
  return text;
}

// Each tensor of the table: name, shape, type, file.
struct TensorFacts {
  std::string name, shape, dtype, file;
};
std::vector<TensorFacts> tensor_facts(const Subject& subject) {
  std::vector<TensorFacts> out;
  for (const model::TensorRow& row : subject.model().table().rows()) {
    TensorFacts t{.name = row.name, .shape = shape_text(row.shape)};
    if (subject.loaded) {
      const formats::Checkpoint& checkpoint = *subject.loaded->checkpoint;
      if (!checkpoint.find(t.name)) t.name = row.other_name;
      const ConstTensor found = *checkpoint.find(t.name);
      const std::string place = checkpoint.place(t.name);
      t.shape = shape_text(found.dims()), t.dtype = name_of(found.dtype);
      t.file = fs::path(place.substr(0, place.size() - t.name.size() - 2)).filename().string();
    }
    out.push_back(std::move(t));
  }
  return out;
}

Json to_json(const Subject& subject, const Facts& facts, const InspectArgs& args) {
  const ModelConfig& c = subject.model().config();
  Json json = {{"layers", c.n_layers()},
               {"hidden", c.hidden},
               {"vocabulary", c.vocab_size},
               {"context", c.context},
               {"kda_layers", layers_of(c, "kda")},
               {"gdn_layers", layers_of(c, "gdn")},
               {"mla_layers", layers_of(c, "mla")},
               {"moe_layers", n_moe_layers(c)},
               {"has_weights", facts.has_weights}};
  Json& parameters = json["parameters"];
  const auto add = [&](const char* name, const ParameterCounts::Count& n) {
    parameters[name] = {
        {"total", n.parameters}, {"active", n.active_parameters}, {"bytes", n.bytes}, {"active_bytes", n.active_bytes}};
  };
  for (int g = 0; g < model::kParameterGroups; ++g)
    add(model::name_of(static_cast<model::ParameterGroup>(g)), facts.counts.groups[static_cast<size_t>(g)]);
  add("all", facts.counts.total);
  const runtime::MemoryPlan& m = facts.memory;
  json["memory"] = {{"context", facts.context},
                    {"weight_bytes", m.weight_bytes},
                    {"state_bytes_per_sequence", m.state_bytes_per_sequence},
                    {"state_bytes_per_token", m.state_bytes_per_token()},
                    {"state_bytes", m.state_bytes(facts.context)},
                    {"tokens_per_pass", facts.tokens_per_pass},
                    {"activation_bytes", m.activation_bytes},
                    {"total_bytes", m.weight_bytes + m.state_bytes(facts.context) + m.activation_bytes}};
  if (!args.tensors) return json;
  for (const TensorFacts& t : tensor_facts(subject))
    json["tensors"].push_back(
        {{"name", t.name}, {"shape", Json::parse(t.shape)}, {"dtype", t.dtype}, {"file", t.file}});
  return json;
}

}  // namespace

int run_inspect(const InspectArgs& args) {
  ThreadPool pool;
  const Subject subject = open_subject(args, pool);
  const Facts facts = gather(subject, args);
  if (args.json) {
    print(to_json(subject, facts, args).dump(2) + "\n");
    return 0;
  }
  std::string text = architecture_lines(subject.model().config()) + parameter_lines(facts) + memory_lines(facts);
  if (args.tensors) text += "\ntensors\n";
  if (args.tensors)
    for (const TensorFacts& t : tensor_facts(subject))
      text += cat(t.name, "  ", t.shape, t.dtype.empty() ? "" : cat("  ", t.dtype, "  ", t.file), "\n");
  if (args.check) text += "\nall weights are finite\n";
  print(text);
  return 0;
}

}  // namespace linnet::cli
