// Reading and checking a training configuration.
#include "train/train_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/text.h"
#include "formats/json_fields.h"
#include "formats/mapped_file.h"
#include "train/train_config_fields.h"

namespace linnet::train {
namespace {

using formats::JsonFields;
using formats::JsonKind;
using nlohmann::ordered_json;

constexpr size_t kMaxFileBytes = size_t{8} << 20;

// Gives the document the sections that it leaves out: a required field of one is then missed under its own name.
struct SectionAdder {
  ordered_json* at;

  template <class Body>
  void section(const char* key, Body body) {
    ordered_json& inside = (*at)[key];
    if (inside.is_null()) inside = ordered_json::object();
    if (!inside.is_object()) return;  // the reader says so
    ordered_json* outside = std::exchange(at, &inside);
    body();
    at = outside;
  }
  void models(std::vector<RunConfig>&) {}
  void integer(const IntegerField&, int64_t&) {}
  void number(const RealField&, double&) {}
  void text(const TextField&, std::string&) {}
  void path(const TextField&, std::filesystem::path&) {}
  void boolean(const char*, bool, const char*, bool&) {}
  template <class T>
  void derived(const char*, const char*, const char*, std::optional<T>&, T, T) {}
  template <class Enum>
  void choice(const char*, Enum, const char*, Enum&, Choices<Enum>, OnResume = {}) {}
};

ModelSource read_model(const JsonFields& f) {
  if (f.has("from")) {
    ModelSource source{.start = f.string("from")};
    f.refuse_unread_keys();
    source.config = model::read_config(source.start / "config.json");
    return source;
  }
  if (f.has("config")) {
    const std::filesystem::path file = f.string("config");
    f.refuse_unread_keys();
    return {.config = model::read_config(file)};
  }
  return {.config = model::read_config(f)};
}

bool is_run_name(std::string_view name) {
  const auto fits = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
  };
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), fits) &&
         !name.starts_with("step-");
}

struct Reader {
  JsonFields at;

  template <class Body>
  void section(const char* key, Body body) {
    const JsonFields outside = std::exchange(at, at.object(key));
    body();
    at = outside;
  }
  void integer(const IntegerField& f, int64_t& value) {
    value = at.optional_integer(f.key, f.low, f.high).value_or(f.fallback);
  }
  void number(const RealField& f, double& value) {
    value = at.optional_number(f.key, f.low, f.high).value_or(f.fallback);
  }
  void text(const TextField& f, std::string& value) {
    value = f.fallback ? at.optional_string(f.key).value_or(f.fallback) : at.string(f.key);
  }
  void path(const TextField& f, std::filesystem::path& value) {
    std::string name;
    text(f, name);
    if (name.empty()) throw at.error(f.key, "path");
    value = name;
  }
  void boolean(const char* key, bool fallback, const char*, bool& value) {
    value = at.optional_boolean(key).value_or(fallback);
  }
  void derived(const char* key, const char*, const char*, std::optional<int64_t>& value, int64_t low, int64_t high) {
    value = at.optional_integer(key, low, high);
  }
  void derived(const char* key, const char*, const char*, std::optional<double>& value, double low, double high) {
    value = at.optional_number(key, low, high);
  }
  template <class Enum>
  void choice(const char* key, Enum fallback, const char*, Enum& value, Choices<Enum> choices, OnResume = {}) {
    value = fallback;
    if (!at.has(key)) return at.ignore(key);
    const std::string name = at.string(key);
    const auto found = std::find_if(choices.begin(), choices.end(), [&](const auto& c) { return c.name == name; });
    if (found != choices.end()) {
      value = found->value;
      return;
    }
    std::string names;
    for (const auto& c : choices) names += cat(names.empty() ? "" : ", ", '"', c.name, '"');
    throw at.error(key, names);
  }

  void models(std::vector<RunConfig>& runs) {
    if (at.has("runs") && at.has("model")) throw at.error("model", "either model or runs, not both");
    if (!at.has("runs")) {
      at.ignore("runs");
      runs = {{.model = read_model(at.object("model"))}};
      return;
    }
    at.ignore("model");
    for (const JsonFields& run : at.objects("runs")) {
      const std::string name = run.string("name");
      if (!is_run_name(name)) throw run.error("name", "1 to 64 of a-z, A-Z, 0-9, - and _, not beginning with step-");
      for (const RunConfig& other : runs)
        if (other.name == name) throw run.error("name", "a name that no other run has");
      runs.push_back({name, read_model(run.object("model"))});
    }
    if (runs.empty()) throw at.error("runs", "at least one run");
  }
};

[[noreturn]] void refuse(const std::string& place, std::string_view field, std::string_view expected, int64_t got) {
  throw FormatError(cat(place, ": ", field, ": expected ", expected, ", got ", got));
}

void resolve_data(TrainConfigDraft& d, const std::string& place) {
  RunDataConfig& data = d.config.data;
  data.micro_batch_tokens = d.micro_batch_tokens.value_or(data.batch_tokens);
  const int64_t micro = data.micro_batch_tokens, t = data.sequence_tokens;
  const char* micro_name = d.micro_batch_tokens ? "data.micro_batch_tokens" : "data.batch_tokens";
  if (micro % t != 0) refuse(place, micro_name, cat("a multiple of data.sequence_tokens ", t), micro);
  if (data.batch_tokens % micro != 0)
    refuse(place, "data.batch_tokens", cat("a multiple of data.micro_batch_tokens ", micro), data.batch_tokens);
  for (const RunConfig& run : d.config.runs)
    if (t > run.model.config.context)
      refuse(place, "data.sequence_tokens", cat("at most model_max_length ", run.model.config.context), t);
}

void resolve_schedule(TrainConfigDraft& d, const std::string& place) {
  ScheduleConfig& s = d.config.schedule;
  if (d.steps.has_value() == d.schedule_tokens.has_value())
    throw FormatError(
        cat(place, ": schedule.steps: expected one of steps and tokens, got ", d.steps ? "both" : "none"));
  if (d.decay_steps && d.decay_fraction)
    throw FormatError(cat(place, ": schedule.decay_steps: expected one of decay_steps and decay_fraction, got both"));
  const int64_t batch = d.config.data.batch_tokens;
  s.steps = d.steps ? *d.steps : (*d.schedule_tokens - 1) / batch + 1;
  s.warmup_steps = d.warmup_steps.value_or(s.steps / 50);
  if (s.warmup_steps >= s.steps)
    refuse(place, "schedule.warmup_steps", cat("fewer than the ", s.steps, " steps of the run"), s.warmup_steps);
  const double fraction = d.decay_fraction.value_or(0.2);
  s.decay_steps = d.decay_steps.value_or(std::llround(fraction * static_cast<double>(s.steps)));
  if (s.kind != ScheduleKind::wsd) s.decay_steps = 0;
  if (s.decay_steps > s.steps - s.warmup_steps)
    refuse(place, "schedule.decay_steps", cat("at most the ", s.steps - s.warmup_steps, " steps after the warm-up"),
           s.decay_steps);
  if (d.config.stop_step > s.steps)
    refuse(place, "stop_step", cat("at most the ", s.steps, " steps of the run"), d.config.stop_step);
}

void check(const TrainConfig& c, const std::string& place) {
  if (c.spike_factor > 0 && c.spike_factor <= 1)
    throw FormatError(cat(place, ": spike_factor: expected 0 or a number above 1, got ", c.spike_factor));
  if (c.optimizer.adamw.beta1 >= 1 || c.optimizer.adamw.beta2 >= 1)
    throw FormatError(cat(place, ": optimizer.adamw.", c.optimizer.adamw.beta1 >= 1 ? "beta1" : "beta2",
                          ": expected number in [0, 1), got 1"));
  if (c.optimizer.muon.momentum >= 1)
    throw FormatError(cat(place, ": optimizer.muon.momentum: expected number in [0, 1), got 1"));
}

}  // namespace

TrainConfig parse_train_config(std::string_view text, std::string place, std::span<const std::string> overrides) {
  ordered_json document = ordered_json::parse(with_overrides(text, place, overrides));
  TrainConfigDraft draft;
  SectionAdder adder{&document};
  visit_fields(adder, draft);
  Reader reader{JsonFields::parse(document.dump(), place)};
  visit_fields(reader, draft);
  reader.at.refuse_unread_keys();
  resolve_data(draft, place);
  resolve_schedule(draft, place);
  check(draft.config, place);
  return std::move(draft.config);
}

TrainConfig read_train_config(const std::filesystem::path& file, std::span<const std::string> overrides) {
  return parse_train_config(formats::read_text_file(file, kMaxFileBytes), file.string(), overrides);
}

}  // namespace linnet::train
