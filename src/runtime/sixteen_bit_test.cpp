// Checkpoints with 16-bit matrices against the same numbers stored as f32: what is left is the rounding of activations.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "formats/file_test_support.h"
#include "model/checkpoint_test_support.h"
#include "runtime/engine.h"

namespace linnet::runtime {
namespace {

using formats::ScratchFolder;

// Logits of every token of 100, appended in one call.
std::vector<std::vector<float>> logits_of(const std::filesystem::path& folder) {
  Engine engine(folder, {.threads = 2, .load = {.cache_dtype = DType::f32}});
  StateSlot slot = engine.new_slot();
  std::vector<int32_t> ids(100);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 71 % 320);
  std::vector<std::vector<float>> out;
  const Append request{.slot = &slot, .tokens = ids, .want = Want::all};
  engine.append({&request, 1}, [&](size_t, int64_t, Tensor l) {
    for (int64_t i = 0; i < l[0]; ++i) out.emplace_back(l.row<float>(i), l.row<float>(i) + l[1]);
  });
  return out;
}

double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - want[i], 2);
    norm += std::pow(static_cast<double>(want[i]), 2);
  }
  return std::sqrt(difference / norm);
}

// Per token, how far the 16-bit checkpoint is from the f32 one with the same values; sorted.
std::vector<double> errors_of(DType dtype) {
  const ScratchFolder folder;
  model::write_edited(folder / "narrow", {.convert = dtype});
  const formats::Checkpoint golden = formats::Checkpoint::open(model::kGoldenFolder);
  model::write_edited(folder / "wide", {.data = [&](const std::string& name, std::vector<std::byte>& bytes) {
                        if (golden.find(name)->rank != 2) return;
                        float* values = reinterpret_cast<float*>(bytes.data());
                        for (size_t i = 0; i < bytes.size() / sizeof(float); ++i)
                          values[i] = dtype == DType::bf16 ? to_f32(to_bf16(values[i])) : to_f32(to_f16(values[i]));
                      }});
  const auto narrow = logits_of(folder / "narrow"), wide = logits_of(folder / "wide");
  std::vector<double> errors;
  for (size_t i = 0; i < wide.size(); ++i) errors.push_back(relative_error(narrow[i], wide[i]));
  std::sort(errors.begin(), errors.end());
  return errors;
}

TEST(sixteen_bit, f16_weights_are_only_stored_narrow) {
  EXPECT_LT(errors_of(DType::f16).back(), 1e-4);  // the same f32 arithmetic on every path; sums in another order
}

TEST(sixteen_bit, bf16_weights_cost_at_most_the_rounding_of_activations) {
  const std::vector<double> errors = errors_of(DType::bf16);
  if (active_isa() < Isa::avx512_bf16) {
    EXPECT_LT(errors.back(), 1e-4);  // activations are not rounded here
    return;
  }
  // Rounding to 8 bits, 2^-9 a value, through about 30 products in a row: sqrt(30) 2^-9 = 1.1 %. A token whose router has a near tie may
  // go to another expert, which no bound on rounding covers: so the bound holds for all but a tenth of the tokens.
  EXPECT_LT(errors[errors.size() * 9 / 10], 0.022);
  EXPECT_GT(errors[errors.size() / 2], 1e-5) << "nothing was rounded: not the path that this test is about";
}

}  // namespace
}  // namespace linnet::runtime
