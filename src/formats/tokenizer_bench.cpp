// Tokenizer speed: loading a table of Kimi's size, and encoding English (code and licences) and Chinese (verse).
#include <benchmark/benchmark.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "formats/tokenizer.h"

namespace linnet::formats {
namespace {

const std::string kData = "tests/data/tokenizer/";  // run in the source folder

// The texts of the golden cases whose characters are of one kind, repeated to a megabyte.
std::string megabyte_of(bool ascii) {
  std::ifstream in(kData + "cases.jsonl");
  std::string texts;
  for (std::string line; std::getline(in, line);) {
    const std::string text = nlohmann::json::parse(line)["text"];
    const auto high = std::count_if(text.begin(), text.end(), [](char c) { return static_cast<signed char>(c) < 0; });
    if (ascii ? high == 0 && text.size() > 1000 : text.find("。") != text.npos) texts += text;
  }
  std::string out;
  while (!texts.empty() && out.size() < 1'000'000) out += texts;
  return out;
}

void encode(benchmark::State& state, bool ascii) {
  const Tokenizer tokenizer = Tokenizer::load_ranks_file(kData + "ranks.tiktoken");
  const std::string text = megabyte_of(ascii);
  size_t n_ids = 0;
  for (auto _ : state) n_ids = tokenizer.encode(text).size();
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
  state.counters["bytes_per_token"] = static_cast<double>(text.size()) / static_cast<double>(n_ids);
}
BENCHMARK_CAPTURE(encode, english, true);
BENCHMARK_CAPTURE(encode, chinese, false);

void encode_one_piece(benchmark::State& state) {  // the longest piece that slicing allows
  const Tokenizer tokenizer = Tokenizer::load_ranks_file(kData + "ranks.tiktoken");
  std::string text;
  for (unsigned i = 0; i < 25'000; ++i) text += static_cast<char>('a' + (i * i / 7 + i) % 26);
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.encode(text));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
}
BENCHMARK(encode_one_piece);

void decode(benchmark::State& state) {
  const Tokenizer tokenizer = Tokenizer::load_ranks_file(kData + "ranks.tiktoken");
  const std::vector<TokenId> ids = tokenizer.encode(megabyte_of(true));
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.decode(ids));
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * ids.size()));
}
BENCHMARK(decode);

void load_kimi_sized_table(benchmark::State& state) {
  const auto file = std::filesystem::temp_directory_path() / "linnet_bench_ranks";
  write_ranks_file(file, letter_vocabulary(163'584));
  for (auto _ : state) benchmark::DoNotOptimize(Tokenizer::load_ranks_file(file));
  std::filesystem::remove(file);
}
BENCHMARK(load_kimi_sized_table)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace linnet::formats
