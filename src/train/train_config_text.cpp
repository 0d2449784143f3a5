// A training configuration as text: its documentation, its canonical JSON, and where two of those differ.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "core/errors.h"
#include "core/text.h"
#include "train/train_config.h"
#include "train/train_config_fields.h"

namespace linnet::train {
namespace {

using nlohmann::ordered_json;

std::string text_of(const ordered_json& value, size_t max = 60) { return printable(value.dump(-1, ' ', true), max); }

template <class Enum>
const char* name_of(Enum value, Choices<Enum> choices) {
  const auto is = [&](const auto& c) { return c.value == value; };
  return std::find_if(choices.begin(), choices.end(), is)->name;
}

std::string decimal(double x) {
  char text[40];
  std::snprintf(text, sizeof text, "%.12g", x);
  return text;
}

struct Describer {
  std::vector<FieldDescription> fields;
  std::string prefix;

  void add(std::string_view key, std::string fallback, std::string meaning, OnResume on_resume = OnResume::same) {
    fields.push_back(
        {cat(prefix, key), std::move(fallback), std::move(meaning), on_resume == OnResume::may_change, {}});
  }
  template <class Body>
  void section(const char* key, Body body) {
    const std::string outside = std::exchange(prefix, cat(prefix, key, "."));
    body();
    prefix = outside;
  }
  void models(std::vector<RunConfig>&) {
    add("model", "required", "the architecture: an object in the form of a published config.json");
    add("model.config", "none", "instead: a file of that form");
    add("model.from", "none", "instead: a checkpoint folder whose weights are trained further");
    add("runs", "none", "instead of model: several, each {\"name\": ..., \"model\": {...}}, on the same batches");
  }
  void integer(const IntegerField& f, int64_t&) { add(f.key, cat(f.fallback), f.meaning, f.on_resume); }
  void number(const RealField& f, double&) { add(f.key, decimal(f.fallback), f.meaning, f.on_resume); }
  void text(const TextField& f, std::string&) {
    add(f.key, f.fallback ? cat('"', f.fallback, '"') : "required", f.meaning, f.on_resume);
  }
  void path(const TextField& f, std::filesystem::path&) {
    std::string ignored;
    text(f, ignored);
  }
  void boolean(const char* key, bool fallback, const char* meaning, bool&) {
    add(key, fallback ? "true" : "false", meaning);
  }
  template <class T>
  void derived(const char* key, const char* fallback, const char* meaning, std::optional<T>&, T, T) {
    add(key, fallback, meaning);
  }
  template <class Enum>
  void choice(const char* key, Enum fallback, const char* meaning, Enum&, Choices<Enum> choices,
              OnResume on_resume = OnResume::same) {
    add(key, cat('"', name_of(fallback, choices), '"'), meaning, on_resume);
    for (const auto& c : choices) fields.back().choices.push_back(c.name);
  }
};

ordered_json model_json(const ModelSource& source) {
  if (!source.start.empty()) return {{"from", source.start.string()}};
  return ordered_json::parse(model::config_json(source.config));
}

struct Writer {
  ordered_json root = ordered_json::object();
  ordered_json* at = &root;

  template <class Body>
  void section(const char* key, Body body) {
    ordered_json* outside = at;
    ordered_json inside = ordered_json::object();
    at = &inside;
    body();
    at = outside;
    (*at)[key] = std::move(inside);
  }
  void models(std::vector<RunConfig>& runs) {
    if (runs.size() == 1 && runs[0].name.empty()) {
      (*at)["model"] = model_json(runs[0].model);
      return;
    }
    ordered_json& list = (*at)["runs"] = ordered_json::array();
    for (const RunConfig& run : runs) list.push_back({{"name", run.name}, {"model", model_json(run.model)}});
  }
  void integer(const IntegerField& f, int64_t& value) { (*at)[f.key] = value; }
  void number(const RealField& f, double& value) { (*at)[f.key] = value; }
  void text(const TextField& f, std::string& value) { (*at)[f.key] = value; }
  void path(const TextField& f, std::filesystem::path& value) { (*at)[f.key] = value.string(); }
  void boolean(const char* key, bool, const char*, bool& value) { (*at)[key] = value; }
  template <class T>
  void derived(const char* key, const char*, const char*, std::optional<T>& value, T, T) {
    if (value) (*at)[key] = *value;
  }
  template <class Enum>
  void choice(const char* key, Enum, const char*, Enum& value, Choices<Enum> choices, OnResume = {}) {
    (*at)[key] = name_of(value, choices);
  }
};

// Keys of either, those of `a` first.
std::vector<std::string> keys_of(const ordered_json& a, const ordered_json& b) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : a.items()) keys.push_back(key);
  for (const auto& [key, value] : b.items())
    if (!a.contains(key)) keys.push_back(key);
  return keys;
}

std::string difference(const ordered_json* a, const ordered_json* b, const std::string& at,
                       const std::set<std::string>& may_change) {
  if (may_change.count(at) || (a && b && *a == *b)) return "";
  if (a && b && a->is_object() && b->is_object()) {
    for (const std::string& key : keys_of(*a, *b)) {
      const std::string found =
          difference(a->contains(key) ? &(*a)[key] : nullptr, b->contains(key) ? &(*b)[key] : nullptr,
                     at.empty() ? key : cat(at, ".", key), may_change);
      if (!found.empty()) return found;
    }
    return "";
  }
  if (a && b && a->is_array() && b->is_array() && a->size() == b->size()) {
    for (size_t i = 0; i < a->size(); ++i)
      if (std::string found = difference(&(*a)[i], &(*b)[i], cat(at, "[", i, "]"), may_change); !found.empty())
        return found;
    return "";
  }
  const auto value = [](const ordered_json* v) { return v ? text_of(*v) : "not given"; };
  return cat(at, ": ", value(a), " when the checkpoint was written, ", value(b), " now");
}

std::string markdown_cell(std::string text) {
  for (size_t at = 0; (at = text.find('|', at)) != text.npos; at += 2) text.insert(at, 1, '\\');
  return text;
}

}  // namespace

std::vector<FieldDescription> describe_train_config() {
  Describer describer;
  TrainConfigDraft unused;
  visit_fields(describer, unused);
  return std::move(describer.fields);
}

std::string train_config_markdown() {
  std::string out = "| field | default | meaning |\n|---|---|---|\n";
  for (const FieldDescription& f : describe_train_config())
    out += cat("| `", f.name, "`", f.may_change_on_resume ? " \\*" : "", " | ", markdown_cell(f.default_value), " | ",
               markdown_cell(f.meaning), " |\n");
  return out;
}

std::string train_config_help(size_t columns) {
  const std::vector<FieldDescription> fields = describe_train_config();
  size_t names = 0, defaults = 0;
  for (const FieldDescription& f : fields) {
    names = std::max(names, f.name.size() + 2);
    defaults = std::max(defaults, f.default_value.size() + 2);
  }
  std::string out;
  for (const FieldDescription& f : fields) {
    std::string line = f.name + (f.may_change_on_resume ? "*" : "");
    line.resize(names, ' ');
    line += f.default_value;
    line.resize(names + defaults, ' ');
    std::istringstream words(f.meaning);
    for (std::string word; words >> word;) {
      if (line.size() + word.size() > columns && line.size() > names + defaults) {
        out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
        line.assign(names + defaults, ' ');
      }
      line += word + " ";
    }
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return out + "* may change when a run is resumed\n";
}

std::string canonical_json(const TrainConfig& config) {
  TrainConfigDraft draft{.config = config};
  draft.micro_batch_tokens = config.data.micro_batch_tokens;
  draft.steps = config.schedule.steps;
  draft.warmup_steps = config.schedule.warmup_steps;
  draft.decay_steps = config.schedule.decay_steps;
  Writer writer;
  visit_fields(writer, draft);
  return writer.root.dump(2) + "\n";
}

std::string first_difference(std::string_view saved, std::string_view now) {
  std::set<std::string> may_change;
  for (const FieldDescription& f : describe_train_config())
    if (f.may_change_on_resume) may_change.insert(f.name);
  try {
    const ordered_json a = ordered_json::parse(saved), b = ordered_json::parse(now);
    return difference(&a, &b, "", may_change);
  } catch (const ordered_json::exception&) {
    throw FormatError("trainer.json: config: expected JSON, got something else");
  }
}

}  // namespace linnet::train
