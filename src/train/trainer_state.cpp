#include "train/trainer_state.h"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/text.h"
#include "formats/json_fields.h"
#include "train/train_config.h"

namespace linnet::train {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kFormat = 1;
constexpr int64_t kMax = INT64_MAX;

std::string hex(uint64_t value) {
  char text[20];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

uint64_t hash_of(const formats::JsonFields& f, std::string_view key) {
  const std::string text = f.string(key);
  if (text.size() != 16 || text.find_first_not_of("0123456789abcdef") != text.npos)
    throw f.error(key, "16 hexadecimal digits");
  return std::stoull(text, nullptr, 16);
}

}  // namespace

std::string trainer_json(const TrainerState& s) {
  for (const auto& [name, number] : s.numbers)
    if (!std::isfinite(number)) throw InvalidArgument(cat("trainer.json: ", name, ": expected a finite number"));
  const ordered_json json = {{"format", kFormat},
                             {"step", s.step},
                             {"tokens", s.tokens},
                             {"seconds", s.seconds},
                             {"vocab_size", s.data.vocab_size},
                             {"tokenizer_hash", hex(s.data.tokenizer_hash)},
                             {"content_hash", hex(s.data.content_hash)},
                             {"numbers", s.numbers},
                             {"config", ordered_json::parse(s.config)}};
  return json.dump(2) + "\n";  // the shortest decimals that are read back as the same doubles
}

TrainerState parse_trainer_json(std::string_view text, std::string place) {
  const auto f = formats::JsonFields::parse(text, std::move(place));
  if (f.integer("format", 1, kMax) != kFormat) throw f.error("format", cat(kFormat));
  TrainerState s;
  s.step = f.integer("step", 0, kMax);
  s.tokens = f.integer("tokens", 0, kMax);
  s.seconds = f.number("seconds", 0, HUGE_VAL);
  s.data.vocab_size = static_cast<int32_t>(f.integer("vocab_size", 0, INT32_MAX));
  s.data.tokenizer_hash = hash_of(f, "tokenizer_hash");
  s.data.content_hash = hash_of(f, "content_hash");
  const auto numbers = f.object("numbers");
  for (const std::string& key : numbers.keys()) s.numbers[key] = numbers.number(key, -HUGE_VAL, HUGE_VAL);
  f.object("config");
  s.config = ordered_json::parse(text).at("config").dump(2) + "\n";
  return s;
}

void require_resumable(const TrainerState& saved, const TrainerState& now, std::string_view place) {
  const auto refuse = [&](const std::string& why) { throw InvalidArgument(cat(place, ": cannot resume: ", why)); };
  const auto compare = [&](const char* what, const std::string& before, const std::string& after) {
    if (before != after) refuse(cat(what, ": ", before, " when the checkpoint was written, ", after, " now"));
  };
  if (const std::string found = first_difference(saved.config, now.config); !found.empty()) refuse(found);
  compare("tokenizer", hex(saved.data.tokenizer_hash), hex(now.data.tokenizer_hash));
  compare("vocabulary of the tokenizer", cat(saved.data.vocab_size), cat(now.data.vocab_size));
  compare("data", hex(saved.data.content_hash), hex(now.data.content_hash));
}

}  // namespace linnet::train
