// Tiles in bf16 with AMX: 16 rows of w by 32 k are a tile where they lie; 32 k of a packed panel of x are one in the
// pair layout.
#include <immintrin.h>

#include "ops/gemm/gemm_bf16_tile-inl.h"

namespace linnet::ops::gemm {
namespace {

// 32 rows of w by two panels of x in tiles 0..3; operands in 4, 5 (w) and 6, 7 (x). A step of 32 k is four tile
// products, 64 cycles, for four tile loads of 16 lines each. Prefetching w, into L1 or L2, measured slower, and so did
// k blocks of 256 and 1024.
struct Amx {
  static constexpr int kRows = 32;
  static constexpr int64_t kStep = 32;
  static constexpr int64_t kStoreRows = 32;
  template <int kPanels>
  static void multiply(const Block& b);
};
static_assert(Amx::kStep == kBf16DepthStep);

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// All eight tiles 16 x 64 bytes. g++ 12 declares neither the whole configuration as read by ldtilecfg nor any memory by
// tile loads: without barriers stores before them are dropped or moved behind.
void configure_tiles() {
  TileConfig config;
  for (int i = 0; i < 8; ++i) config.row_bytes[i] = 64, config.rows[i] = 16;
  asm volatile("" ::: "memory");
  _tile_loadconfig(&config);
}

template <int kPanels>
void Amx::multiply(const Block& b) {
  constexpr int64_t kHalf = 16 * kPanelRows;  // of c: 16 rows further
  asm volatile("" ::: "memory");
  if (b.resume) {
    _tile_loadd(0, b.c[0], 64);
    _tile_loadd(2, b.c[0] + kHalf, 64);
    if constexpr (kPanels == 2) {
      _tile_loadd(1, b.c[1], 64);
      _tile_loadd(3, b.c[1] + kHalf, 64);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < b.depth; k += kStep) {
    const std::byte* w = b.w + k * 2;
    const int64_t at_x = k * kPanelRows * 2;
    _tile_loadd(4, w, b.stride);
    _tile_loadd(6, b.x[0] + at_x, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kPanels == 2) {
      _tile_loadd(7, b.x[1] + at_x, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    _tile_loadd(5, w + 16 * b.stride, b.stride);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kPanels == 2) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, b.c[0], 64);
  _tile_stored(2, b.c[0] + kHalf, 64);
  if constexpr (kPanels == 2) {
    _tile_stored(1, b.c[1], 64);
    _tile_stored(3, b.c[1] + kHalf, 64);
  }
}

void multiply_tile_amx(const Tile& t) noexcept {
  configure_tiles();
  multiply_tile<Amx>(t);
  _tile_release();
}

}  // namespace

constinit const TileKernel kTilesAmx{multiply_tile_amx, Amx::kRows};

}  // namespace linnet::ops::gemm
