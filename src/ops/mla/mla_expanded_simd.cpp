// The expanded way: keys and values of kSpan tokens at a time are made from the latents, for all heads, into scratch;
// then every tile of queries passes them with an online softmax. The unnormalised result waits in out between spans,
// its max and sum in scratch. Nothing of the size of tokens^2, or of all keys of all heads, is ever held. Neighbouring
// sequences advance together, as many as fit in kGroupKeys, so that short ones keep all threads busy.
#include <cstring>
#include <limits>
#include <span>

#include "ops/mla/mla.h"
#include "ops/mla/mla_simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/mla/mla_expanded_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/mla/mla_softmax-inl.h"

#ifndef LINNET_OPS_MLA_EXPANDED_SHARED  // what the targets share, once
#define LINNET_OPS_MLA_EXPANDED_SHARED
namespace linnet::ops {

constexpr int64_t kSpan = 256;      // keys expanded at a time: 320 KiB a head at widths 192 and 128, so they stay in L2
constexpr int64_t kQueryTile = 32;  // queries of a task: scores 8 KiB and results 16 KiB in L1, beside a panel of keys
constexpr int64_t kPiece = 64;      // keys that one task expands: of one cache block
constexpr int64_t kGroupKeys = 1024;     // of all sequences that advance together
constexpr int64_t kGroupSequences = 64;  // most of them

struct MlaSpan {
  const MlaArgs* args;
  int64_t token, n_new, n_past;  // first packed token of the sequence, its tokens in this call, those before
  const std::byte* const* blocks;
  int64_t room;         // keys that k and v have room for: kSpan, or what a shorter sequence needs
  int64_t begin, keys;  // positions [begin, begin + keys) are expanded
  float* k;             // [H] of [room, Dn + Dr], as panels: see key_panel
  float* v;             // [H, room, Dv]
  float *max, *sum;     // [H, n_new]
  float* scratch;       // per thread, scratch_floats()
  float* own_latent;    // [room, R], where the cache is not f32
  int64_t first_task;   // of a region that several sequences share

  int64_t n_keys() const { return n_past + n_new; }
  int64_t cache_width() const { return args->R + args->Dr; }
  // Latents of the span from `key` on, as far as its block of the cache reaches.
  bool widened() const { return args->cache_dtype != DType::f32; }
  int64_t latent_stride() const { return widened() ? args->R : cache_width(); }
  const float* latent(int64_t key) const {
    return widened() ? own_latent + key * args->R : cache_row<float>(blocks, begin + key, cache_width());
  }
  int64_t key_width() const { return args->Dn + args->Dr; }
  int64_t scratch_floats() const { return kQueryTile * (kMlaBlock + args->Dv) + round_up(kQueryTile, 16); }
};

}  // namespace linnet::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// Keys lie transposed in panels of as many keys as one tile of sum_rows is wide: [room / kPanel][Dn + Dr][kPanel].
constexpr int64_t kPanel = kSumVectors * kLanes;
static_assert(kMlaBlock % kPanel == 0 && kPiece % kPanel == 0 && kMlaBlock % kPiece == 0 && kSpan % kMlaBlock == 0);

float* key_panel(const MlaSpan& s, int64_t h, int64_t key) {
  return s.k + (h * s.room + key / kPanel * kPanel) * s.key_width();
}

void widen_latents(const MlaSpan& s, int64_t from, int64_t to) {
  const int64_t R = s.args->R;
  for (int64_t key = from; key < to; ++key)
    map_f32(
        R, s.own_latent + key * R, [](auto x) HWY_ATTR { return x; },
        cache_row<bf16>(s.blocks, s.begin + key, s.cache_width()));
}

// The part of the keys that all heads share, behind the head's own rows of the panel.
template <class T>
void copy_shared(const MlaSpan& s, int64_t from, int64_t keys, float* panel) {
  const MlaArgs& a = *s.args;
  const T* rows = cache_row<T>(s.blocks, s.begin + from, s.cache_width()) + a.R;
  for (int64_t d = 0; d < a.Dr; ++d)
    for (int64_t key = 0; key < keys; ++key) panel[(a.Dn + d) * kPanel + key] = to_f32(rows[key * s.cache_width() + d]);
}

// Keys and values [from, to) of the span, within one block, head h, from the weights where they lie.
template <class W>
void expand_keys(const MlaSpan& s, int64_t h, int64_t from, int64_t to) {
  const MlaArgs& a = *s.args;
  const W* w_uk = a.kv_b.as<W>() + h * (a.Dn + a.Dv) * a.R;
  for (int64_t key = from; key < to; key += kPanel) {
    const int64_t n = std::min(kPanel, to - key);
    const float* latent = s.latent(key);
    float* panel = key_panel(s, h, key);
    dot_rows<W>({n, a.Dn, a.R, latent, s.latent_stride(), w_uk, a.R, panel, 1, kPanel});
    dot_rows<W>(
        {n, a.Dv, a.R, latent, s.latent_stride(), w_uk + a.Dn * a.R, a.R, s.v + (h * s.room + key) * a.Dv, a.Dv, 1});
    if (a.cache_dtype == DType::bf16) copy_shared<bf16>(s, key, n, panel);
    else copy_shared<float>(s, key, n, panel);
  }
}

void expand(const MlaSpan& s, int64_t h, int64_t from, int64_t to) {
  switch (s.args->kv_b.dtype) {
    case DType::bf16: return expand_keys<bf16>(s, h, from, to);
    case DType::f16: return expand_keys<f16>(s, h, from, to);
    default: return expand_keys<float>(s, h, from, to);
  }
}

// One block of keys for the rows of a tile: y gathers on.
void pass_block(const MlaSpan& s, int64_t h, int64_t query, int64_t key, const SoftmaxRows& softmax, float* y) {
  const MlaArgs& a = *s.args;
  int64_t first = 0;  // rows before it end before this block
  while (softmax.limit[first] == 0) ++first;
  const float* q = a.q.row<float>(s.token + query + first) + h * s.key_width();
  const int64_t keys = softmax.limit[softmax.rows - 1];
  for (int64_t j = 0; j < keys; j += kPanel)
    sum_rows<float>({softmax.rows - first, kPanel, s.key_width(), q, a.q.row_stride, key_panel(s, h, key + j), kPanel,
                     softmax.score + first * kMlaBlock + j, kMlaBlock, nullptr});
  softmax_block(softmax, a.scale);
  gather_values<float>(softmax, {s.v + (h * s.room + key) * a.Dv, a.Dv, a.Dv, 0}, y, a.Dv);
}

// Queries [query, query + rows) of the call, head h, over the span.
void attend_tile(const MlaSpan& s, int64_t h, int64_t query, int64_t rows, float* scratch) {
  const MlaArgs& a = *s.args;
  float* score = scratch;
  float* y = score + kQueryTile * kMlaBlock;
  int64_t limit[kQueryTile];
  const SoftmaxRows softmax{
      rows, limit, score, s.max + h * s.n_new + query, s.sum + h * s.n_new + query, y + kQueryTile * a.Dv};
  const int64_t seen = s.n_past + query + rows - s.begin;  // keys of the span and later up to the last query
  if (seen <= 0) return;
  float* out = a.out.row<float>(s.token + query) + h * a.Dv;
  for (int64_t i = 0; i < rows; ++i) {
    if (s.begin == 0)
      std::fill_n(y + i * a.Dv, a.Dv, 0.0f), softmax.max[i] = -std::numeric_limits<float>::infinity(),
                                             softmax.sum[i] = 0;
    else std::copy_n(out + i * a.out.row_stride, a.Dv, y + i * a.Dv);
  }
  for (int64_t key = 0; key < std::min(s.keys, seen); key += kMlaBlock) {
    for (int64_t i = 0; i < rows; ++i) limit[i] = std::clamp<int64_t>(seen - rows + 1 + i - key, 0, kMlaBlock);
    pass_block(s, h, query, key, softmax, y);
  }
  const bool last = seen <= kSpan;
  for (int64_t i = 0; i < rows; ++i) {
    const float factor = last ? 1 / softmax.sum[i] : 1.0f;
    for (int64_t c = 0; c < a.Dv; ++c) out[i * a.out.row_stride + c] = y[i * a.Dv + c] * factor;
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
namespace {
HWY_EXPORT(widen_latents);
HWY_EXPORT(expand);
HWY_EXPORT(attend_tile);

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t room_for(int64_t n_keys) { return std::min(round_up(n_keys, kMlaBlock), kSpan); }

MlaSpan take_span(const MlaArgs& a, int64_t b, const Exec& exec) {
  const int64_t H = a.q[1];
  MlaSpan s{};
  s.args = &a;
  s.token = a.seq_start.as<int32_t>()[b];
  s.n_new = a.seq_start.as<int32_t>()[b + 1] - s.token;
  s.n_past = a.seqs[b].n_past;
  s.blocks = a.seqs[b].blocks;
  s.room = room_for(s.n_keys());
  s.k = exec.workspace.take<float>(H * s.room * s.key_width());
  s.v = exec.workspace.take<float>(H * s.room * a.Dv);
  s.max = exec.workspace.take<float>(H * s.n_new);
  s.sum = exec.workspace.take<float>(H * s.n_new);
  s.own_latent = exec.workspace.take<float>(s.room * a.R);
  return s;
}

// Sequences that advance together, and the scratch of threads.
struct Group {
  std::span<MlaSpan> spans;
  float* scratch;
  const Exec& exec;

  // body(span, task, thread) for tasks [0, count(span)) of every span, all in one region.
  template <class Count, class Body>
  void for_tasks(Count count, Body body) const {
    int64_t total = 0;
    for (MlaSpan& s : spans) s.first_task = total, total += count(s);
    exec.pool.parallel_for(total, 1, [&](int64_t from, int64_t to, int thread) {
      for (int64_t i = from; i < to; ++i) {
        const auto after = std::partition_point(spans.begin(), spans.end(), [&](auto& s) { return s.first_task <= i; });
        body(after[-1], i - after[-1].first_task, thread);
      }
    });
  }
};

void make_keys(const Group& g, const MlaArgs& a) {
  constexpr int64_t kWiden = 32;
  if (a.cache_dtype == DType::bf16)
    g.for_tasks([](const MlaSpan& s) { return ceil_div(s.keys, kWiden); },
                [](const MlaSpan& s, int64_t i, int) {
                  HWY_DYNAMIC_DISPATCH(widen_latents)(s, i * kWiden, std::min((i + 1) * kWiden, s.keys));
                });
  g.for_tasks([&](const MlaSpan& s) { return a.q[1] * ceil_div(s.keys, kPiece); },
              [](const MlaSpan& s, int64_t i, int) {
                const int64_t pieces = ceil_div(s.keys, kPiece), key = i % pieces * kPiece;
                HWY_DYNAMIC_DISPATCH(expand)(s, i / pieces, key, std::min(key + kPiece, s.keys));
              });
}

// Heads outside, tiles inside: a thread's next tile finds the same keys and values in its cache.
void attend(const Group& g, const MlaArgs& a) {
  const auto tiles = [](const MlaSpan& s) { return ceil_div(s.n_new, kQueryTile); };
  g.for_tasks([&](const MlaSpan& s) { return s.keys > 0 ? a.q[1] * tiles(s) : 0; },
              [&](const MlaSpan& s, int64_t i, int thread) {
                const int64_t query = i % tiles(s) * kQueryTile;
                HWY_DYNAMIC_DISPATCH(attend_tile)
                (s, i / tiles(s), query, std::min(kQueryTile, s.n_new - query),
                 g.scratch + thread * s.scratch_floats());
              });
}

}  // namespace

size_t mla_expanded_workspace(const MlaArgs& a, int n_threads) {
  const int64_t N = a.q[0], H = a.q[1];
  MlaSpan s{};
  s.args = &a;
  const size_t rounding = 2 * kGroupSequences * kAlignment;  // of each max and sum
  return float_bytes(H * kGroupKeys * s.key_width()) + float_bytes(H * kGroupKeys * a.Dv) + 2 * float_bytes(H * N) +
         rounding + float_bytes(kGroupKeys * a.R) + float_bytes(n_threads * s.scratch_floats()) +
         aligned_size(kGroupSequences * sizeof(MlaSpan));
}

void mla_expanded(const MlaArgs& a, int64_t first, int64_t end, const Exec& exec) noexcept {
  const int32_t* start = a.seq_start.as<int32_t>();
  const Workspace::Scope scope(exec.workspace);
  MlaSpan* spans = exec.workspace.take<MlaSpan>(kGroupSequences);
  for (int64_t b = first; b < end;) {
    const Workspace::Scope group_scope(exec.workspace);
    int64_t n = 0, room = 0, longest = 0;
    for (; b < end && n < kGroupSequences; ++b) {
      if (start[b] == start[b + 1]) continue;
      const int64_t n_keys = a.seqs[b].n_past + start[b + 1] - start[b];
      if (room + room_for(n_keys) > kGroupKeys) break;
      spans[n++] = take_span(a, b, exec);
      room += room_for(n_keys), longest = std::max(longest, n_keys);
    }
    if (n == 0) continue;
    const Group group{{spans, static_cast<size_t>(n)},
                      exec.workspace.take<float>(exec.pool.size() * spans[0].scratch_floats()),
                      exec};
    for (int64_t begin = 0; begin < longest; begin += kSpan) {
      for (MlaSpan& s : group.spans) s.begin = begin, s.keys = std::clamp<int64_t>(s.n_keys() - begin, 0, kSpan);
      make_keys(group, a);
      attend(group, a);
    }
  }
}

}  // namespace linnet::ops
#endif
