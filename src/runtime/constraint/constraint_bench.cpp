// Cost of a mask at a vocabulary of Kimi's size (163,584 text tokens that are words, numbers and JSON punctuation around them), at
// the states that decoding meets: cold (nothing known of the automaton), new (a state whose like has been seen), kept.
#include <benchmark/benchmark.h>

#include <set>

#include "core/rng.h"
#include "formats/tokenizer.h"
#include "runtime/constraint/constraint.h"

namespace linnet::runtime {
namespace {

constexpr size_t kTextTokens = 163'584;

// Bytes, then distinct pieces: words of 2 to 10 letters with a space before most, some in quotes or with JSON around them.
const std::shared_ptr<const TokenTrie>& trie() {
  static const formats::Tokenizer tokenizer = [] {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    std::set<std::string> known(tokens.begin(), tokens.end());
    Rng rng(1);
    const char* const before[] = {" ", " ", " ", " ", "", "", "_", "\"", " \"", "{\""};
    const char* const behind[] = {"", "", "", "", "", "", "", "\"", "\":", "\","};
    while (tokens.size() < kTextTokens) {
      std::string piece = before[rng.bits() % 10];
      for (uint64_t n = 2 + rng.bits() % 9; n > 0; --n) piece += static_cast<char>('a' + rng.bits() % 26);
      piece += behind[rng.bits() % 10];
      if (known.insert(piece).second) tokens.push_back(piece);
    }
    formats::RankTable ranks = formats::RankTable::parse(formats::ranks_file_text(tokens), "bench");
    const formats::TokenId first = ranks.size();
    return formats::Tokenizer(std::move(ranks), formats::SpecialTokens::kimi(first));
  }();
  static const auto trie = std::make_shared<const TokenTrie>(tokenizer, tokenizer.vocab_size());
  return trie;
}

const char* const kSchema =
    R"({"type": "object", "properties": {"name": {"type": "string"}, "code": {"type": "string", "maxLength": 40},
  "age": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}}}, "required": ["name", "code"]})";

// Byte tokens have the id of their byte here.
Constraint after(Constraint constraint, std::string_view text) {
  for (char byte : text) constraint.accept(static_cast<uint8_t>(byte));
  return constraint;
}

void cold(benchmark::State& state, const char* text) {
  std::vector<uint64_t> bits;
  for (auto _ : state) {
    state.PauseTiming();
    const Constraint constraint = after(Constraint::json_schema(kSchema, "bench", trie(), {}), text);
    bits.resize(constraint.n_words());
    state.ResumeTiming();
    constraint.mask(bits);
  }
}
BENCHMARK_CAPTURE(cold, key, "{\"")->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(cold, string, "{\"name\":\"")->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(cold, bounded_string, "{\"name\":\"a\",\"code\":\"abc")->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(cold, number, "{\"name\":\"a\",\"code\":\"\",\"age\":1")->Unit(benchmark::kMicrosecond);

void kept(benchmark::State& state) {
  const Constraint constraint = after(Constraint::json_schema(kSchema, "bench", trie(), {}), "{\"name\":\"");
  std::vector<uint64_t> bits(constraint.n_words());
  for (auto _ : state) constraint.mask(bits);
}
BENCHMARK(kept)->Unit(benchmark::kMicrosecond);

// Each mask of one text, token for token: bytes at random within a bounded string, so that nearly every state is new.
void new_states_of_a_bounded_string(benchmark::State& state) {
  std::vector<uint64_t> bits;
  Constraint constraint = Constraint::json_object(trie(), {});
  int length = 40;
  for (auto _ : state) {
    if (++length >= 40) {
      state.PauseTiming();
      constraint = after(Constraint::json_schema(kSchema, "bench", trie(), {}), "{\"name\":\"a\",\"code\":\"");
      bits.resize(constraint.n_words());
      constraint.mask(bits);
      length = 0;
      state.ResumeTiming();
    }
    constraint.accept('a');
    constraint.mask(bits);
  }
}
BENCHMARK(new_states_of_a_bounded_string)->Unit(benchmark::kMicrosecond);

void make_a_constraint(benchmark::State& state) {
  const auto& once = trie();
  state.counters["nodes"] = static_cast<double>(once->nodes().size());
  for (auto _ : state) benchmark::DoNotOptimize(Constraint::json_object(once, {}));
}
BENCHMARK(make_a_constraint)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace linnet::runtime
