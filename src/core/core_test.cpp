// Dtype conversions, text, tensors, errors.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/arena.h"
#include "core/errors.h"
#include "core/rng.h"
#include "core/tensor.h"
#include "core/text.h"
#include "core/variant.h"

namespace linnet {
namespace {

TEST(dtype, bf16_rounds_to_nearest_even) {
  EXPECT_EQ(to_bf16(1.0f).bits, 0x3f80);
  EXPECT_EQ(to_bf16(1.0f + 0x1p-8f).bits, 0x3f80);             // tie: to even
  EXPECT_EQ(to_bf16(1.0f + 3 * 0x1p-8f).bits, 0x3f82);         // tie: to even
  EXPECT_EQ(to_bf16(1.0f + 0x1p-8f + 0x1p-20f).bits, 0x3f81);  // above the tie
  EXPECT_EQ(to_bf16(std::numeric_limits<float>::max()).bits, 0x7f80);
  EXPECT_TRUE(std::isnan(to_f32(to_bf16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isinf(to_f32(to_bf16(-std::numeric_limits<float>::infinity()))));
}

TEST(dtype, f16_round_trips_every_value) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const f16 h{static_cast<uint16_t>(bits)};
    const float wide = to_f32(h);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(to_f32(to_f16(wide))));
    } else {
      EXPECT_EQ(to_f16(wide).bits, bits) << bits;
      EXPECT_EQ(to_bf16(to_f32(bf16{h.bits})).bits,
                std::isnan(to_f32(bf16{h.bits})) ? to_bf16(to_f32(bf16{h.bits})).bits : bits);
    }
  }
}

TEST(dtype, f16_rounds_to_nearest_even) {
  EXPECT_EQ(to_f16(65504.0f).bits, 0x7bff);
  EXPECT_EQ(to_f16(65519.0f).bits, 0x7bff);
  EXPECT_EQ(to_f16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(to_f16(0x1p-25f).bits, 0);    // tie at half the smallest subnormal: to even
  EXPECT_EQ(to_f16(0x1.8p-24f).bits, 2);  // tie between 1 and 2 units: to even
  EXPECT_EQ(to_f16(1.0f + 0x1p-11f).bits, 0x3c00);
  EXPECT_EQ(to_f16(-2.0f).bits, 0xc000);
}

TEST(text, bytes_and_counts) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(1536), "1.50 KiB");
  EXPECT_EQ(bytes_text(98245363456), "91.5 GiB");
  EXPECT_EQ(count_text(7), "7");
  EXPECT_EQ(count_text(49122681728), "49,122,681,728");
  EXPECT_EQ(printable(std::string_view("a\n\x00z", 4), 10), "a\\x0a\\x00z");
  EXPECT_EQ(printable("abcdef", 3), "abc...");
}

TEST(tensor, views_and_checks) {
  float memory[24] = {};
  Tensor t = Tensor::of(memory, {4, 6});
  EXPECT_EQ(t.rows(1, 3).row<float>(1), memory + 12);
  EXPECT_EQ(t.reshaped({4, 2, 3})[2], 3);
  Tensor columns = Tensor::of(memory + 2, {4, 3});
  columns.row_stride = 6;
  EXPECT_FALSE(columns.dense());
  EXPECT_EQ(columns.row<float>(2), memory + 14);
  EXPECT_NO_THROW(expect_tensor("op", "x", t, DType::f32, {-1, 6}));
  try {
    expect_tensor("op", "x", t, DType::bf16, {4, 7});
    FAIL() << "accepted a wrong shape";
  } catch (const InvalidArgument& e) { EXPECT_STREQ(e.what(), "op: x: expected [4, 7] bf16, got [4, 6] f32"); }
  EXPECT_THROW(expect_tensor("op", "x", Tensor(), DType::f32, {1}), InvalidArgument);
}

TEST(errors, exit_status_by_kind) {
  EXPECT_EQ(exit_status(InvalidArgument("")), 2);
  EXPECT_EQ(exit_status(Unsupported("")), 2);
  EXPECT_EQ(exit_status(FormatError("")), 3);
  EXPECT_EQ(exit_status(IoError("")), 3);
  EXPECT_EQ(exit_status(OutOfMemory("")), 4);
  EXPECT_EQ(exit_status(std::bad_alloc()), 4);
  EXPECT_EQ(exit_status(InternalError("")), 70);
  EXPECT_EQ(exit_status(std::runtime_error("")), 70);
}

TEST(arena, scopes_return_memory) {
  Workspace w(4096);
  float* first = w.take<float>(10);
  {
    Workspace::Scope scope(w);
    w.take<float>(100);
  }
  EXPECT_EQ(reinterpret_cast<std::byte*>(w.take<float>(1)), reinterpret_cast<std::byte*>(first) + 64);
  EXPECT_THROW(Buffer(SIZE_MAX / 4), OutOfMemory);
}

TEST(rng, is_a_function_of_its_counter) {
  Rng a(7), b(7);
  for (int i = 0; i < 5; ++i) a.bits();
  b.seek(5);
  EXPECT_EQ(a.bits(), b.bits());
  double sum = 0, squares = 0;
  for (uint64_t i = 0; i < 100000; ++i) sum += a.normal(i), squares += a.normal(i) * a.normal(i);
  EXPECT_NEAR(sum / 1e5, 0, 5 / std::sqrt(1e5));  // 5 standard errors
  EXPECT_NEAR(squares / 1e5, 1, 5 * std::sqrt(2 / 1e5));
}

struct Args {
  int width;
};

TEST(variant, first_willing_one_wins_and_refusals_are_told) {
  static const Variant<Args> kTable[] = {
      {"amx", Isa::amx, no_refusal<Args>, no_workspace<Args>, [](const Args&, const Exec&) noexcept {}},
      {"simd", Isa::baseline,
       [](const Args& a) { return a.width == 4 ? std::string() : cat("width ", a.width, " is not 4"); },
       no_workspace<Args>, [](const Args&, const Exec&) noexcept {}},
  };
  EXPECT_STREQ(choose_variant<Args>("op", kTable, {4}, Isa::avx2).variant(), "simd");
  EXPECT_STREQ(choose_variant<Args>("op", kTable, {4}, Isa::amx).variant(), "amx");
  try {
    choose_variant<Args>("op", kTable, {5}, Isa::avx2);
    FAIL() << "chose a variant that refuses";
  } catch (const Unsupported& e) {
    EXPECT_STREQ(e.what(), "op: no variant: amx: needs amx, have avx2; simd: width 5 is not 4");
  }
}

}  // namespace
}  // namespace linnet
