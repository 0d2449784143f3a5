// Floors of the published model against figures derived by hand from its shapes.
#include "model/cost.h"

#include <gtest/gtest.h>

namespace linnet::model {
namespace {

struct Cost : testing::Test {
  KimiLinear model{read_config(std::string(LINNET_SOURCE_DIR) + "/examples/configs/kimi-linear-48b.json"), DType::bf16};
};

TEST_F(Cost, prefill) {
  const PrefillCost one = prefill_cost(model, 0, 1);
  // 2.729e9 parameters a token without embedding and head, and the head's 163,840 x 2,304
  EXPECT_NEAR(one.products, 2 * (2.729e9 + 163840.0 * 2304), 4e6);
  // 6 * 128^2 + 5 * 64 * 128 + 64^2 / 3 = 140,629 a head, 32 heads in 20 layers
  EXPECT_NEAR(one.kda_core, 140629.0 * 640, 640);
  // 2 * 192 + 2 * 128 = 640 a pair and head, 32 heads in 7 layers
  EXPECT_DOUBLE_EQ(one.mla_attention, 640.0 * 32 * 7);
  const PrefillCost later = prefill_cost(model, 1000, 10);
  EXPECT_DOUBLE_EQ(later.mla_attention, 640.0 * 32 * 7 * (10 * 1000 + 55));
  EXPECT_NEAR(later.kda_core, 10 * one.kda_core, 1);
  // In pieces or at once: the same, but for the head of each piece.
  const double whole = prefill_cost(model, 0, 100).total();
  const double pieces = prefill_cost(model, 0, 60).total() + prefill_cost(model, 60, 40).total();
  EXPECT_NEAR(pieces - whole, 2 * 163840.0 * 2304, 1e3);
}

TEST_F(Cost, decode) {
  const DecodeCost cost = decode_cost(model, 4096);
  EXPECT_NEAR(static_cast<double>(cost.weight_bytes), 2 * 3.107e9, 1e7);
  // 20 layers of 32 x 128 x 128 f32 and 3 x 12,288 f32, read and written; 7 layers of 576 bf16 for each token
  EXPECT_EQ(cost.state_bytes, 2 * 20 * (32 * 128 * 128 + 3 * 12288) * 4 + 4096 * 8064);
}

}  // namespace
}  // namespace linnet::model
