// The memory plan against what slots really take, and its refusal.
#include "runtime/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/errors.h"
#include "formats/file_test_support.h"
#include "runtime/engine.h"

namespace linnet::runtime {
namespace {

const std::string kSource = LINNET_SOURCE_DIR;

TEST(memory_plan, states_are_what_a_slot_takes) {
  Engine engine(kSource + "/tests/data/tiny-fp32", {.threads = 1});
  const MemoryPlan plan = engine.memory_plan();
  StateSlot slot = engine.new_slot();
  const std::vector<int32_t> ids(200, 5);
  for (int64_t length : {1, 2, 63, 64, 65, 128, 129, 200}) {
    const auto more = std::span(ids).first(static_cast<size_t>(length - slot.n_tokens()));
    const Append request{.slot = &slot, .tokens = more, .want = Want::nothing};
    engine.append({&request, 1}, [](size_t, int64_t, Tensor) {});
    EXPECT_EQ(plan.state_bytes(length), static_cast<int64_t>(engine.states().bytes())) << length;
    EXPECT_EQ(plan.state_bytes(length), static_cast<int64_t>(engine.states().bytes_of(length))) << length;
  }
}

TEST(memory_plan, published_model) {
  const model::KimiLinear model(model::read_config(kSource + "/examples/configs/kimi-linear-48b.json"), DType::bf16);
  const MemoryPlan plan = plan_memory(model, 1024);
  EXPECT_EQ(plan.state_bytes_per_token(), 8064);  // 7 layers of 576 bf16 values
  // 20 layers: 32 heads of 128 x 128 f32, and 3 inputs of 12,288 f32 before the convolution
  EXPECT_EQ(plan.state_bytes_per_sequence, 20 * (32 * 128 * 128 + 3 * 12288) * 4);
  EXPECT_NEAR(static_cast<double>(plan.weight_bytes), 2 * 49122681728.0, 1e7);  // and a little more for what is f32
}

TEST(memory_plan, context_follows_memory) {
  const MemoryPlan plan{
      .weight_bytes = 1000, .state_bytes_per_sequence = 100, .state_bytes_per_block = 640, .activation_bytes = 900};
  for (const auto& [bytes, context] : {std::pair(80 * 640, 80 * 64), {80 * 640 - 1, 79 * 64}}) {
    EXPECT_EQ(fitting_context(plan, 1 << 20, static_cast<uint64_t>(2000 + bytes)), context);
    EXPECT_EQ(plan.state_bytes(context), 100 + context * 10);
    EXPECT_EQ(fitting_context(plan, 3000, static_cast<uint64_t>(2000 + bytes)), 3000);
  }
  EXPECT_EQ(fitting_context(plan, 1 << 20, 500), 4096);  // never less: whether that fits is said by require_memory
  EXPECT_EQ(fitting_context({.state_bytes_per_sequence = 100}, 1 << 20, 500), 1 << 20);
  EXPECT_NO_THROW(require_memory(plan, 64, 1640));
  EXPECT_THAT(formats::error_of<OutOfMemory>([&] { require_memory(plan, 65, 1640); }),
              testing::HasSubstr("a context of 65 tokens needs 1.35 KiB of states"));
}

TEST(memory_plan, tokens_per_pass_keep_to_the_activations) {
  for (const char* file : {"tiny", "bench", "kimi-linear-48b"}) {
    const model::ModelConfig config = model::read_config(cat(kSource, "/examples/configs/", file, ".json"));
    const int64_t n = default_tokens_per_pass(config);
    EXPECT_EQ(n % 64, 0);
    EXPECT_LE(n * activation_bytes_per_token(config), kActivationBytes) << file;
  }
}

}  // namespace
}  // namespace linnet::runtime
