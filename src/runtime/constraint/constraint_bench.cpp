// Cost of a mask at a vocabulary of Kimi's size: the 100,256 tokens of the table under tests/data, and random words of two or three
// Chinese characters up to 163,584. At the states that decoding meets: cold (nothing kept), new (like others before it), kept.
// Run in the source folder.
#include <benchmark/benchmark.h>

#include <set>

#include "core/rng.h"
#include "formats/tokenizer.h"
#include "formats/utf8.h"
#include "runtime/constraint/constraint.h"

namespace linnet::runtime {
namespace {

constexpr size_t kTextTokens = 163'584;

const std::shared_ptr<const TokenTrie>& trie() {
  static const formats::Tokenizer tokenizer = [] {
    const auto published = formats::RankTable::load("tests/data/tokenizer/ranks.tiktoken");
    std::vector<std::string> tokens;
    for (int32_t id = 0; id < published.size(); ++id) tokens.emplace_back(published.bytes(id));
    std::set<std::string> known(tokens.begin(), tokens.end());
    Rng rng(1);
    while (tokens.size() < kTextTokens) {
      std::string word;
      for (uint64_t n = 2 + rng.bits() % 2; n > 0; --n)
        formats::append_utf8(static_cast<char32_t>(0x4e00 + rng.bits() % 6000), word);
      if (known.insert(word).second) tokens.push_back(word);
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

int32_t byte_token(char byte) {
  int32_t id = 0;
  while (trie()->bytes_of(id) != std::string_view(&byte, 1)) ++id;
  return id;
}
Constraint after(Constraint constraint, std::string_view text) {
  for (char byte : text) constraint.accept(byte_token(byte));
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

// Token for token in a string with maxLength: each state is new.
void new_states_of_a_bounded_string(benchmark::State& state) {
  std::vector<uint64_t> bits;
  Constraint constraint = Constraint::json_object(trie(), {});
  int length = 40;
  const int32_t letter = byte_token('a');
  for (auto _ : state) {
    if (++length >= 40) {
      state.PauseTiming();
      constraint = after(Constraint::json_schema(kSchema, "bench", trie(), {}), "{\"name\":\"a\",\"code\":\"");
      bits.resize(constraint.n_words());
      constraint.mask(bits);
      length = 0;
      state.ResumeTiming();
    }
    constraint.accept(letter);
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
