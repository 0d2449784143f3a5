// What a checkpoint must be refused for, each with the tensor named. Every case is the golden checkpoint with one change.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "formats/file_test_support.h"
#include "model/checkpoint_test_support.h"
#include "model/load.h"
#include "support/owned_tensor.h"

namespace linnet::model {
namespace {

using formats::ScratchFolder;
using formats::TensorSpec;
using testing::AllOf;
using testing::HasSubstr;

LoadedModel load(const std::filesystem::path& folder) {
  ThreadPool pool(2);
  return load_model(folder, {}, pool);
}

std::string refusal(const Edit& edit) {
  const ScratchFolder folder;
  write_edited(folder / "m", edit);
  return formats::error_of<FormatError>([&] { load(folder / "m"); });
}

void poke(std::vector<std::byte>& bytes, size_t element, float value) { std::memcpy(&bytes[element * 4], &value, 4); }

TEST(load, missing_extra_and_misshaped_tensors) {
  EXPECT_THAT(refusal({.drop = "model.layers.2.self_attn.A_log"}),
              HasSubstr("model.layers.2.self_attn.A_log: expected [1, 1, 4, 1], got no such tensor"));
  EXPECT_THAT(refusal({.add = {{"model.layers.9.extra", DType::f32, {3}}}}),
              HasSubstr("model.layers.9.extra: a tensor that this architecture does not have"));
  const auto change = [](const char* name, std::vector<int64_t> shape) {
    return [=](TensorSpec& spec) {
      if (spec.name == name) spec.shape = shape;
    };
  };
  EXPECT_THAT(refusal({.change = change("lm_head.weight", {320, 63})}),
              HasSubstr("lm_head.weight: expected [320, 64], got [320, 63]"));
  EXPECT_THAT(refusal({.change = change("lm_head.weight", {64, 320})}), HasSubstr("expected [320, 64], got [64, 320]"));
}

TEST(load, weights_that_are_no_floats) {
  const auto to_int = [](TensorSpec& spec) {
    if (spec.name == "lm_head.weight") spec.dtype = DType::i32;
  };
  EXPECT_THAT(refusal({.change = to_int}), HasSubstr("lm_head.weight: expected f32, bf16 or f16, got i32"));
}

TEST(load, nan_and_infinite_weights_are_named) {
  const auto poison = [](const char* name, size_t element, float value) {
    return [=](const std::string& tensor, std::vector<std::byte>& bytes) {
      if (tensor == name) poke(bytes, element, value);
    };
  };
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
  EXPECT_THAT(refusal({.data = poison("model.layers.3.block_sparse_moe.experts.7.w2.weight", 5, kNan)}),
              AllOf(HasSubstr("experts.7.w2.weight: element 5"), HasSubstr("got nan")));
  EXPECT_THAT(refusal({.data = poison("model.layers.0.self_attn.dt_bias", 0, -kInf)}),
              AllOf(HasSubstr("dt_bias: element 0"), HasSubstr("got infinity")));
  EXPECT_THAT(refusal({.data = poison("lm_head.weight", 320 * 64 - 1, kNan)}), HasSubstr("element 20479"));
}

TEST(load, a_head_beside_tied_embeddings_is_a_copy_of_them) {
  const auto tied = [](const ScratchFolder& folder, const Edit& edit) {
    write_edited(folder / "m", edit);
    auto config = nlohmann::json::parse(formats::contents(folder / "m" / "config.json"));
    config["tie_word_embeddings"] = true;
    std::ofstream(folder / "m" / "config.json") << config;
    return folder / "m";
  };
  const ScratchFolder without, same, other;
  EXPECT_NO_THROW(load(tied(without, {.drop = "lm_head.weight"})));
  const formats::Checkpoint golden = formats::Checkpoint::open(kGoldenFolder);
  EXPECT_NO_THROW(load(tied(same, {.data = [&](const std::string& name, std::vector<std::byte>& bytes) {
                              const ConstTensor embed = *golden.find("model.embed_tokens.weight");
                              if (name == "lm_head.weight") std::memcpy(bytes.data(), embed.data, bytes.size());
                            }})));
  EXPECT_THAT(formats::error_of<FormatError>([&] { load(tied(other, {})); }),
              HasSubstr("lm_head.weight: expected a copy of model.embed_tokens.weight"));
}

TEST(load, shapes_may_differ_in_extents_of_one) {
  const ScratchFolder folder;
  write_edited(folder / "m", {.change = [](TensorSpec& spec) {
                 if (spec.name.ends_with("A_log")) spec.shape = {4};
                 if (spec.name.ends_with("conv1d.weight")) spec.shape = {64, 4};
               }});
  EXPECT_EQ(load(folder / "m").model->config().hidden, 64);
}

TEST(load, shards_and_sixteen_bit_floats) {
  for (DType dtype : {DType::bf16, DType::f16}) {
    const ScratchFolder folder;
    write_edited(folder / "m", {.convert = dtype, .max_shard_bytes = 200000});
    const LoadedModel loaded = load(folder / "m");
    EXPECT_EQ(loaded.cache_dtype, DType::bf16);
    EXPECT_TRUE(std::filesystem::exists(folder / "m" / "model.safetensors.index.json"));
  }
}

TEST(load, identity_tells_weights_and_architectures_apart) {
  const ScratchFolder folder;
  write_edited(folder / "same", {});
  write_edited(folder / "other", {.data = [](const std::string& name, std::vector<std::byte>& bytes) {
                 if (name == "model.norm.weight") poke(bytes, 32, 0.5f);
               }});
  const std::string identity = load(kGoldenFolder).identity;
  EXPECT_EQ(load(folder / "same").identity, identity);
  EXPECT_NE(load(folder / "other").identity, identity);
  ThreadPool pool(1);
  EXPECT_NE(load_model(kGoldenFolder, {.cache_dtype = DType::bf16}, pool).identity, identity);
}

TEST(load, a_folder_without_a_model) {
  const ScratchFolder folder;
  EXPECT_THAT(formats::error_of<IoError>([&] { load(folder.path()); }), HasSubstr("config.json"));
}

}  // namespace
}  // namespace linnet::model
