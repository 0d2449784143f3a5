// Random checkpoints: they load, are reproducible, and leave nothing behind when they cannot be written.
#include "model/synth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/errors.h"
#include "formats/file_test_support.h"
#include "formats/tokenizer.h"
#include "model/load.h"

namespace linnet::model {
namespace {

using formats::contents;
using formats::error_of;
using formats::ScratchFolder;

ModelConfig tiny() { return read_config(std::string(LINNET_SOURCE_DIR) + "/examples/configs/tiny.json"); }

SynthResult write(const std::filesystem::path& dir, const ModelConfig& config, const SynthOptions& options = {},
                  int threads = 2) {
  ThreadPool pool(threads);
  return write_synthetic_checkpoint(dir, config, options, pool, nullptr);
}

TEST(synth, loads_with_the_architecture_it_was_made_from) {
  const ScratchFolder scratch;
  const SynthResult result = write(scratch / "a", tiny());
  ThreadPool pool(2);
  const LoadedModel loaded = load_model(scratch / "a", {}, pool);
  EXPECT_EQ(architecture_text(loaded.model->config()), architecture_text(tiny()));
  EXPECT_EQ(loaded.model->table().parameters(), result.n_parameters);
  EXPECT_EQ(loaded.checkpoint->total_bytes(), result.n_bytes);
  EXPECT_EQ(loaded.checkpoint->find("model.layers.0.self_attn.A_log")->dtype, DType::f32);
  EXPECT_EQ(loaded.checkpoint->find("lm_head.weight")->dtype, DType::bf16);
  const auto tokenizer = formats::Tokenizer::load(scratch / "a");
  EXPECT_EQ(tokenizer.specials().first(), 768);  // 1024 rows, the last 256 for special tokens
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("any \xff text")), "any \xff text");
}

TEST(synth, same_seed_same_bytes_for_any_thread_count) {
  const ScratchFolder scratch;
  write(scratch / "a", tiny(), {.seed = 5}, 1);
  write(scratch / "b", tiny(), {.seed = 5}, 3);
  write(scratch / "c", tiny(), {.seed = 6}, 1);
  EXPECT_EQ(contents(scratch / "a/model.safetensors"), contents(scratch / "b/model.safetensors"));
  EXPECT_NE(contents(scratch / "a/model.safetensors"), contents(scratch / "c/model.safetensors"));
}

TEST(synth, shards_hold_the_same_tensors_as_one_file) {
  const ScratchFolder scratch;
  ModelConfig config = tiny();
  config.dtype = DType::f32;
  write(scratch / "one", config);
  write(scratch / "many", config, {.max_shard_bytes = 300'000});
  const auto one = formats::Checkpoint::open(scratch / "one"), many = formats::Checkpoint::open(scratch / "many");
  EXPECT_TRUE(std::filesystem::exists(scratch / "many/model.safetensors.index.json"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "many/model.safetensors"));
  ASSERT_EQ(one.names(), many.names());
  for (const std::string& name : one.names()) {
    const ConstTensor a = *one.find(name), b = *many.find(name);
    ASSERT_EQ(a.bytes(), b.bytes());
    EXPECT_EQ(std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())), 0) << name;
  }
}

TEST(synth, refuses_what_is_in_the_way_and_leaves_nothing) {
  const ScratchFolder scratch;
  scratch.write("file", "x");
  EXPECT_THAT(error_of<InvalidArgument>([&] { write(scratch.path(), tiny()); }), testing::HasSubstr("empty folder"));
  EXPECT_THAT(error_of<InvalidArgument>([&] { write(scratch / "file", tiny()); }), testing::HasSubstr("got a file"));
  ModelConfig huge = read_config(std::string(LINNET_SOURCE_DIR) + "/examples/configs/kimi-linear-48b.json");
  huge.mixers.assign(4000, "mla"), huge.ffns.assign(4000, FfnKind::dense);
  EXPECT_THAT(error_of<IoError>([&] { write(scratch / "huge", huge); }), testing::HasSubstr("of free disk space"));
  EXPECT_EQ(scratch.n_files(), 1u);
}

TEST(synth, a_vocabulary_below_the_bytes_has_no_tokenizer) {
  const ScratchFolder scratch;
  ModelConfig config = tiny();
  config.vocab_size = 200, config.bos_id = config.pad_id = -1, config.eos_ids.clear();
  EXPECT_FALSE(write(scratch / "a", config).has_tokenizer);
  EXPECT_FALSE(std::filesystem::exists(scratch / "a/tiktoken.model"));
}

}  // namespace
}  // namespace linnet::model
