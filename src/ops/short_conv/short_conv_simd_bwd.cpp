// Gradient of the short causal convolution with Highway vectors. A tile is a block of tokens and a range of channels; it walks its
// tokens once, keeping da of the last W tokens. The da that reach back over the tile's end are computed again by the next tile.
// Tap gradients: a sum for each block of tokens, then these in order.
#include <algorithm>

#include <hwy/cache_control.h>

#include "ops/short_conv/short_conv_bwd.h"
#include "ops/token_blocks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/short_conv/short_conv_simd_bwd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/activation/activation-inl.h"
#include "ops/lanes-inl.h"

#ifndef LINNET_OPS_SHORT_CONV_BWD_TILE  // what the targets share, once
#define LINNET_OPS_SHORT_CONV_BWD_TILE
namespace linnet::ops {

constexpr int64_t kConvBwdTaps = 8, kConvBwdChannels = 256;
constexpr int64_t kConvBwdAhead = 4;  // tokens from a prefetch to its use: 4 * 3 KiB

struct ConvBwdTile {
  int64_t token_begin, token_end, channel_begin, channels;
};

// A tile's taps, their gradients, and da of token t in da[t % 8]: 24 KiB, of which W / 8 is touched.
struct ConvBwdRows {
  alignas(64) float taps[kConvBwdTaps][kConvBwdChannels];
  alignas(64) float dtaps[kConvBwdTaps][kConvBwdChannels];
  alignas(64) float da[kConvBwdTaps][kConvBwdChannels];
  alignas(64) float zeros[kConvBwdChannels];
};

}  // namespace linnet::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// step(load, store) for each vector of channels: load(p) and store(v, p) move the vector's channels [c, ..) of a row p.
template <class Step>
HWY_INLINE void for_channels(int64_t channels, Step step) {
  const hn::ScalableTag<float> d;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  for (; c + L <= channels; c += L)
    step([&](const float* p) HWY_ATTR { return hn::LoadU(d, p + c); },
         [&](auto v, float* p) HWY_ATTR { hn::StoreU(v, d, p + c); });
  if (const int64_t rest = channels - c; rest > 0)
    step([&](const float* p) HWY_ATTR { return load_f32_n(d, p + c, rest); },
         [&](auto v, float* p) HWY_ATTR { store_n(v, d, p + c, rest); });
}

// da = dy silu'(sum_j taps[j] input[j]); with kSums, dtaps[j] += da input[j].
template <int W, bool kSums>
void da_row(const float* const* input, const float* dy, bool silu, int64_t channels, ConvBwdRows& rows, float* da) {
  const hn::ScalableTag<float> d;
  for_channels(channels, [&](auto load, auto store) HWY_ATTR {
    auto g = load(dy);
    if (silu) {
      auto sum = hn::Mul(load(rows.taps[0]), load(input[0]));
      for (int j = 1; j < W; ++j) sum = hn::MulAdd(load(rows.taps[j]), load(input[j]), sum);
      g = hn::Mul(g, silu_slope_f32(d, sum, sigmoid_f32(d, sum)));
    }
    store(g, da);
    if constexpr (kSums)
      for (int j = 0; j < W; ++j) store(hn::MulAdd(g, load(input[j]), load(rows.dtaps[j])), rows.dtaps[j]);
  });
}

// dx of token u = t - (W - 1), from da of the tokens u..t: tap j meets token t - j.
template <int W>
void dx_row(int64_t t, int64_t channels, const ConvBwdRows& rows, float* dx) {
  const float* da[W];
  for (int j = 0; j < W; ++j) da[j] = rows.da[(t - j) % kConvBwdTaps];
  for_channels(channels, [&](auto load, auto store) HWY_ATTR {
    auto sum = hn::Mul(load(rows.taps[0]), load(da[0]));
    for (int j = 1; j < W; ++j) sum = hn::MulAdd(load(rows.taps[j]), load(da[j]), sum);
    store(sum, dx);
  });
}

// A tile's piece of a row is too short, and the next one too far away, for the processor to see it coming.
HWY_INLINE void prefetch_rows(const ShortConvBwdArgs& a, const ConvBwdTile& tile, int64_t t) {
  const float *x = a.x.row<float>(t) + tile.channel_begin, *dy = a.dy.row<float>(t) + tile.channel_begin;
  const float* dx = a.dx.row<float>(t) + tile.channel_begin;
  constexpr int64_t kLineElements = 16;
  for (int64_t c = 0; c < tile.channels; c += kLineElements)
    hwy::Prefetch(x + c), hwy::Prefetch(dy + c), hwy::Prefetch(dx + c);
}

// The tile's tokens [begin, end) of sequence b. da is needed for W - 1 tokens more; past the sequence's end it is zero.
template <int W>
void sequence_bwd(const ShortConvBwdArgs& a, const ConvBwdTile& tile, int64_t b, int64_t begin, int64_t end,
                  ConvBwdRows& rows) {
  const int64_t C = a.x[1], first = a.seq_start.as<int32_t>()[b], last = a.seq_start.as<int32_t>()[b + 1];
  const float* state = a.state ? a.state[b] : nullptr;
  for (int64_t t = begin; t < end + W - 1; ++t) {
    float* da = rows.da[t % kConvBwdTaps];
    if (t < last) {
      const float* input[W];
      for (int j = 0; j < W; ++j) {
        const int64_t from = t - (W - 1) + j,
                      before = from - first;  // negative: counted back from the sequence's start
        if (before >= 0) input[j] = a.x.row<float>(from) + tile.channel_begin;
        else input[j] = state ? state + (before + W - 1) * C + tile.channel_begin : rows.zeros;
      }
      const float* dy = a.dy.row<float>(t) + tile.channel_begin;
      if (t + kConvBwdAhead < tile.token_end) prefetch_rows(a, tile, t + kConvBwdAhead);
      if (t < end) da_row<W, true>(input, dy, a.silu, tile.channels, rows, da);
      else da_row<W, false>(input, dy, a.silu, tile.channels, rows, da);
    } else {
      std::fill_n(da, tile.channels, 0.0f);
    }
    if (const int64_t u = t - (W - 1); u >= begin)
      dx_row<W>(t, tile.channels, rows, a.dx.row<float>(u) + tile.channel_begin);
  }
}

template <int W>
void tokens_bwd(const ShortConvBwdArgs& a, const ConvBwdTile& tile, ConvBwdRows& rows) {
  const int32_t* starts = a.seq_start.as<int32_t>();
  int64_t b = std::upper_bound(starts, starts + a.seq_start[0], tile.token_begin) - starts - 1;
  for (int64_t t = tile.token_begin; t < tile.token_end; ++b) {
    const int64_t end = std::min<int64_t>(tile.token_end, starts[b + 1]);
    if (t < end) sequence_bwd<W>(a, tile, b, t, end, rows);
    t = end;
  }
}

// sums [C, W]: the tile's channels are overwritten.
void conv_tile_bwd(const ShortConvBwdArgs& a, const ConvBwdTile& tile, float* sums) {
  ConvBwdRows rows;
  const int64_t W = a.weight[1];
  for (int64_t j = 0; j < W; ++j) {
    for (int64_t c = 0; c < tile.channels; ++c) rows.taps[j][c] = a.weight.row<float>(tile.channel_begin + c)[j];
    std::fill_n(rows.dtaps[j], tile.channels, 0.0f);
  }
  std::fill_n(rows.zeros, tile.channels, 0.0f);
  switch (W) {
    case 1: tokens_bwd<1>(a, tile, rows); break;
    case 2: tokens_bwd<2>(a, tile, rows); break;
    case 3: tokens_bwd<3>(a, tile, rows); break;
    case 4: tokens_bwd<4>(a, tile, rows); break;
    case 5: tokens_bwd<5>(a, tile, rows); break;
    case 6: tokens_bwd<6>(a, tile, rows); break;
    case 7: tokens_bwd<7>(a, tile, rows); break;
    case 8: tokens_bwd<8>(a, tile, rows); break;
  }
  for (int64_t c = 0; c < tile.channels; ++c)
    for (int64_t j = 0; j < W; ++j) sums[(tile.channel_begin + c) * W + j] = rows.dtaps[j][c];
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
namespace {
HWY_EXPORT(conv_tile_bwd);

constexpr int64_t kGrainElements = 8192;  // below these, another thread costs more than it saves

// Channels are cut as well, so few blocks are enough; their sums, blocks * W rows of C, stay far below x's N rows.
constexpr int64_t kMostBlocks = 32;
}  // namespace

size_t short_conv_simd_bwd_workspace(const ShortConvBwdArgs& a, int) {
  return aligned_size(static_cast<size_t>(TokenBlocks::bound(a.x[0], kMostBlocks) * a.weight.elements()) *
                      sizeof(float));
}

void short_conv_simd_bwd(const ShortConvBwdArgs& a, const Exec& exec) noexcept {
  const int64_t C = a.x[1], columns = ceil_div(C, kConvBwdChannels), n_sums = a.weight.elements();
  const TokenBlocks blocks(a.x[0], kMostBlocks);
  Workspace::Scope scope(exec.workspace);
  float* sums = exec.workspace.take<float>(blocks.count * n_sums);
  const int64_t tile_elements = blocks.size * std::min(C, kConvBwdChannels);
  exec.pool.parallel_for(blocks.count * columns, ceil_div(kGrainElements, tile_elements),
                         [&](int64_t begin, int64_t end, int) {
                           for (int64_t i = begin; i < end; ++i) {
                             const int64_t block = i / columns, channel = i % columns * kConvBwdChannels;
                             const ConvBwdTile tile = {blocks.begin(block), blocks.end(block), channel,
                                                       std::min(kConvBwdChannels, C - channel)};
                             HWY_DYNAMIC_DISPATCH(conv_tile_bwd)(a, tile, sums + block * n_sums);
                           }
                         });
  add_block_sums(exec, sums, blocks.count, n_sums, a.dweight.as<float>());
}

}  // namespace linnet::ops
#endif
