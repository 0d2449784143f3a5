// Opening a checkpoint with the published model's 20,493 tensors in 20 shards: names and index as published, data of one element.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <filesystem>

#include "core/text.h"
#include "formats/checkpoint.h"
#include "formats/checkpoint_writer.h"

namespace linnet::formats {
namespace {

// 26 layers of 256 experts of three matrices, and 525 names for all the rest.
std::vector<TensorSpec> published_tensors() {
  std::vector<TensorSpec> specs;
  for (int layer = 1; layer < 27; ++layer)
    for (int expert = 0; expert < 256; ++expert)
      for (int w = 1; w <= 3; ++w)
        specs.push_back({cat("model.layers.", layer, ".block_sparse_moe.experts.", expert, ".w", w, ".weight"),
                         DType::bf16,
                         {1, 1}});
  while (specs.size() < 20493)
    specs.push_back({cat("model.layers.0.rest.", specs.size(), ".weight"), DType::bf16, {1, 1}});
  return specs;
}

void open_20493_tensors(benchmark::State& state) {
  const auto folder = std::filesystem::temp_directory_path() / cat("linnet-bench-", getpid());
  const std::vector<TensorSpec> specs = published_tensors();
  CheckpointWriter writer(folder, specs, 2 * (specs.size() + 19) / 20);
  for (const TensorSpec& spec : specs) writer.append(spec.name, std::as_bytes(std::span("\0", 2)));
  writer.commit();
  for (auto _ : state) benchmark::DoNotOptimize(Checkpoint::open(folder).names().size());
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(specs.size()));
  std::filesystem::remove_all(folder);
}
BENCHMARK(open_20493_tensors)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace linnet::formats
