// Short causal convolution with Highway vectors. A tile of tokens and channels makes its outputs and the new states of the sequences that
// it has whole; those that several tiles share get theirs in a second region. So no piece writes what another reads, and
// an output is the same expression wherever its token stands in a call.
#include <algorithm>
#include <cstring>

#include "ops/short_conv/short_conv.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/short_conv/short_conv_simd.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/activation/activation-inl.h"
#include "ops/lanes-inl.h"

#ifndef LINNET_OPS_SHORT_CONV_TILE  // what the targets share, once
#define LINNET_OPS_SHORT_CONV_TILE
namespace linnet::ops {

constexpr int64_t kMaxTaps = 8;
constexpr int64_t kTileTokens = 64, kTileChannels = 256;  // taps of a tile: 8 KiB at most, in L1

struct ConvTile {
  int64_t token_begin, token_end, channel_begin, channels;
};

// Whether one tile has all tokens of sequence b, which is not empty.
inline bool is_in_one_tile(const ShortConvArgs& a, int64_t b) {
  const int32_t* starts = a.seq_start.as<int32_t>();
  return starts[b] / kTileTokens == (starts[b + 1] - 1) / kTileTokens;
}

// Row i of the new state is input n - (W - 1) + i of the call: from x, or a row of the old state moved up by n >= 1.
inline void shift_state(const ShortConvArgs& a, int64_t b, int64_t channel_begin, int64_t channels) {
  const int64_t C = a.x[1], kept = a.weight[1] - 1;
  const int64_t begin = a.seq_start.as<int32_t>()[b], n = a.seq_start.as<int32_t>()[b + 1] - begin;
  for (int64_t i = 0; i < kept; ++i) {
    const float* from = i + n < kept ? a.state[b] + (i + n) * C : a.x.row<float>(begin + n - kept + i);
    std::memcpy(a.state[b] + i * C + channel_begin, from + channel_begin,
                static_cast<size_t>(channels) * sizeof(float));
  }
}

}  // namespace linnet::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// taps[j][c] = weight[channel_begin + c][j]
void transpose_taps(const ShortConvArgs& a, const ConvTile& tile, float (*taps)[kTileChannels]) {
  const hn::ScalableTag<float> d;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d)), W = a.weight[1], row = a.weight.row_stride;
  const float* weight = a.weight.row<float>(tile.channel_begin);
  int64_t c = 0;
  if (W == 4 && row == 4) {
    for (; c + L <= tile.channels; c += L) {
      hn::Vec<decltype(d)> w0, w1, w2, w3;
      hn::LoadInterleaved4(d, weight + c * 4, w0, w1, w2, w3);
      hn::StoreU(w0, d, taps[0] + c), hn::StoreU(w1, d, taps[1] + c);
      hn::StoreU(w2, d, taps[2] + c), hn::StoreU(w3, d, taps[3] + c);
    }
  }
  for (; c < tile.channels; ++c)
    for (int64_t j = 0; j < W; ++j) taps[j][c] = weight[c * row + j];
}

// y[c] = sum over j of taps[j][c] * input[j][c], in the order of j.
template <int W>
void conv_row(const float* const* input, const float (*taps)[kTileChannels], int64_t channels, bool silu, float* y) {
  const hn::ScalableTag<float> d;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d));
  const auto finish = [&](auto sum) HWY_ATTR { return silu ? silu_f32(d, sum) : sum; };
  int64_t c = 0;
  for (; c + L <= channels; c += L) {
    auto sum = hn::Mul(hn::LoadU(d, taps[0] + c), hn::LoadU(d, input[0] + c));
    for (int j = 1; j < W; ++j) sum = hn::MulAdd(hn::LoadU(d, taps[j] + c), hn::LoadU(d, input[j] + c), sum);
    hn::StoreU(finish(sum), d, y + c);
  }
  if (c == channels) return;
  const int64_t rest = channels - c;
  auto sum = hn::Mul(load_f32_n(d, taps[0] + c, rest), load_f32_n(d, input[0] + c, rest));
  for (int j = 1; j < W; ++j)
    sum = hn::MulAdd(load_f32_n(d, taps[j] + c, rest), load_f32_n(d, input[j] + c, rest), sum);
  store_n(finish(sum), d, y + c, rest);
}

// States of many sequences lie scattered in a far cache: without asking, each of their short rows is waited for.
constexpr int64_t kSequencesAhead = 2;
inline void prefetch_state(const ShortConvArgs& a, int64_t b, const ConvTile& tile) {
  for (int64_t i = 0; i + 1 < a.weight[1]; ++i)
    for (int64_t c = 0; c < tile.channels; c += 16) hwy::Prefetch(a.state[b] + i * a.x[1] + tile.channel_begin + c);
}

template <int W>
void conv_tokens(const ShortConvArgs& a, const ConvTile& tile, const float (*taps)[kTileChannels]) {
  const int64_t C = a.x[1];
  const int32_t* starts = a.seq_start.as<int32_t>();
  const int64_t B = a.seq_start[0] - 1;
  int64_t b = std::upper_bound(starts, starts + a.seq_start[0], tile.token_begin) - starts - 1;
  for (int64_t t = tile.token_begin; t < tile.token_end; ++t) {
    while (starts[b + 1] <= t) ++b;
    if (t == starts[b] && b + kSequencesAhead < B) prefetch_state(a, b + kSequencesAhead, tile);
    const float* input[W];
    for (int j = 0; j < W; ++j) {
      const int64_t from = t - (W - 1) + j,
                    before = from - starts[b];  // negative: counted back from the sequence's start
      const float* row = before >= 0 ? a.x.row<float>(from) : a.state[b] + (before + W - 1) * C;
      input[j] = row + tile.channel_begin;
    }
    conv_row<W>(input, taps, tile.channels, a.silu, a.y.row<float>(t) + tile.channel_begin);
    if (W > 1 && t + 1 == starts[b + 1] && is_in_one_tile(a, b)) shift_state(a, b, tile.channel_begin, tile.channels);
  }
}

void conv_tile(const ShortConvArgs& a, const ConvTile& tile) {
  alignas(64) float taps[kMaxTaps][kTileChannels];
  transpose_taps(a, tile, taps);
  switch (a.weight[1]) {
    case 1: return conv_tokens<1>(a, tile, taps);
    case 2: return conv_tokens<2>(a, tile, taps);
    case 3: return conv_tokens<3>(a, tile, taps);
    case 4: return conv_tokens<4>(a, tile, taps);
    case 5: return conv_tokens<5>(a, tile, taps);
    case 6: return conv_tokens<6>(a, tile, taps);
    case 7: return conv_tokens<7>(a, tile, taps);
    case 8: return conv_tokens<8>(a, tile, taps);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
namespace {
HWY_EXPORT(conv_tile);

// Elements below which another thread costs more than it saves: of outputs, and of states that are only moved.
constexpr int64_t kLeastTileElements = 2048, kGrainElements = 8192;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

void short_conv_simd(const ShortConvArgs& a, const Exec& exec) noexcept {
  const int64_t N = a.x[0], C = a.x[1], B = a.seq_start[0] - 1, kept = a.weight[1] - 1;
  if (N == 0) return;
  // Few tokens: tiles of fewer channels, so that every thread has one.
  const int64_t rows = ceil_div(N, kTileTokens), share = ceil_div(ceil_div(C * rows, exec.pool.size()), 16) * 16;
  const int64_t least = std::max<int64_t>(kLeastTileElements / std::min(N, kTileTokens) / 16 * 16, 16);
  const int64_t width = std::clamp(share, std::min(least, kTileChannels), kTileChannels), columns = ceil_div(C, width);
  const auto conv_tiles = [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t token = i / columns * kTileTokens, channel = i % columns * width;
      const ConvTile tile = {token, std::min(token + kTileTokens, N), channel, std::min(width, C - channel)};
      HWY_DYNAMIC_DISPATCH(conv_tile)(a, tile);
    }
  };
  const int64_t tile_elements = std::min(N, kTileTokens) * std::min(C, width);
  exec.pool.parallel_for(rows * columns, ceil_div(kLeastTileElements, tile_elements), conv_tiles);
  if (kept == 0 || rows == 1) return;
  exec.pool.parallel_for(B, ceil_div(kGrainElements, kept * C), [&](int64_t begin, int64_t end, int) {
    const int32_t* starts = a.seq_start.as<int32_t>();
    for (int64_t b = begin; b < end; ++b)
      if (starts[b] < starts[b + 1] && !is_in_one_tile(a, b)) shift_state(a, b, 0, C);
  });
}

}  // namespace linnet::ops
#endif
