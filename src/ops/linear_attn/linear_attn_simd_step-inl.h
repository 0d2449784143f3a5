// Step path: one token after the other, for few tokens. Included by linear_attn_simd.cpp, once per instruction set.
//
// Per token, with S the state before it, d the decay, and every sum over key channels:
//   r = S^T (d k)    p = S^T (d q)    u = beta (v - [delta] r)    out = p + (k.q) u    S <- d S + k u^T
// so one reading pass over a block of value columns, then one updating pass while the block is still in cache.
#if defined(LINNET_LINEAR_ATTN_STEP_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_LINEAR_ATTN_STEP_INL
#undef LINNET_LINEAR_ATTN_STEP_INL
#else
#define LINNET_LINEAR_ATTN_STEP_INL
#endif

#include "ops/linear_attn/linear_attn_simd_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// Value columns of one block: r and p stay in registers over all key channels (16 of 32, or 8 of 16).
constexpr int kStepVecs = HWY_TARGET == HWY_AVX3 ? 8 : 4;

// Floats of scratch: d, d k and scale d q, each padded to whole vectors.
inline int64_t step_scratch_floats(int64_t Dk) { return 3 * padded(Dk); }

struct StepToken {
  const float *k, *decay, *decayed_k, *decayed_q;  // [Dk]
  float kq, beta;                                  // kq = scale k.q
  bool delta;
};

HWY_INLINE StepToken make_step_token(const LinearAttnHead& x, int64_t t, float* scratch) {
  float* decay = scratch;
  float* decayed_k = decay + padded(x.Dk);
  float* decayed_q = decayed_k + padded(x.Dk);
  const float* k = x.k + t * x.k_stride;
  const float* q = x.q + t * x.q_stride;
  decay_row(x, t, decay);
  const F f;
  const auto scale = hn::Set(f, x.scale);
  auto dot = hn::Zero(f);
  for (int64_t i = 0; i < x.Dk; i += lanes()) {
    const auto di = hn::LoadU(f, decay + i), ki = load_row(k, i, x.Dk), qi = hn::Mul(scale, load_row(q, i, x.Dk));
    hn::StoreU(hn::Mul(di, ki), f, decayed_k + i);
    hn::StoreU(hn::Mul(di, qi), f, decayed_q + i);
    dot = hn::MulAdd(ki, qi, dot);
  }
  return {k, decay, decayed_k, decayed_q, sum_lanes(dot), x.beta ? x.beta[t * x.beta_stride] : 1.0f, x.delta};
}

// kVecs vectors of value columns of one token; `columns` of them exist (fewer than kVecs vectors hold only when kVecs
// is 1). The same columns of the state `next` are fetched meanwhile: those of many sequences lie in a far cache.
template <int kVecs>
HWY_INLINE void step_columns(const StepToken& t, const float* HWY_RESTRICT v, float* HWY_RESTRICT s, int64_t s_stride,
                             int64_t Dk, int64_t columns, float* HWY_RESTRICT out, const float* next) {
  const F f;
  Vec r[kVecs], p[kVecs];
  for (int j = 0; j < kVecs; ++j) r[j] = p[j] = hn::Zero(f);
  for (int64_t i = 0; i < Dk; ++i) {
    const auto ki = hn::Set(f, t.decayed_k[i]), qi = hn::Set(f, t.decayed_q[i]);
    if (next && i % 2 == 0) prefetch_row(next + i * s_stride, columns);
    for (int j = 0; j < kVecs; ++j) {
      const auto sij = load_row(s + i * s_stride, j * lanes(), columns);
      r[j] = hn::MulAdd(ki, sij, r[j]);
      p[j] = hn::MulAdd(qi, sij, p[j]);
    }
  }
  const auto beta = hn::Set(f, t.beta), kq = hn::Set(f, t.kq);
  for (int j = 0; j < kVecs; ++j) {
    const auto vj = load_row(v, j * lanes(), columns);
    r[j] = hn::Mul(beta, t.delta ? hn::Sub(vj, r[j]) : vj);  // u
    store_row(hn::MulAdd(kq, r[j], p[j]), out, j * lanes(), columns);
  }
  for (int64_t i = Dk - 1; i >= 0; --i) {  // downwards: the rows read last are the ones still in the first-level cache
    const auto di = hn::Set(f, t.decay[i]), ki = hn::Set(f, t.k[i]);
    if (next && i % 2 == 1) prefetch_row(next + i * s_stride, columns);
    for (int j = 0; j < kVecs; ++j) {
      const auto sij = load_row(s + i * s_stride, j * lanes(), columns);
      store_row(hn::MulAdd(di, sij, hn::Mul(ki, r[j])), s + i * s_stride, j * lanes(), columns);
    }
  }
}

// All tokens of the head, value columns [begin, end). next: the state that this thread needs after it, or null.
inline void step_head(const LinearAttnHead& x, int64_t begin, int64_t end, const float* next, float* scratch) {
  for (int64_t t = 0; t < x.n_tokens; ++t) {
    const StepToken token = make_step_token(x, t, scratch);
    const float* v = x.v + t * x.v_stride;
    float* out = x.out + t * x.out_stride;
    const auto ahead = [&](int64_t c) { return next && t + 1 == x.n_tokens ? next + c : nullptr; };
    int64_t c = begin;
    for (; c + kStepVecs * lanes() <= end; c += kStepVecs * lanes())
      step_columns<kStepVecs>(token, v + c, x.state + c, x.Dv, x.Dk, kStepVecs * lanes(), out + c, ahead(c));
    if constexpr (kStepVecs > 4)  // heads of 64
      for (; c + 4 * lanes() <= end; c += 4 * lanes())
        step_columns<4>(token, v + c, x.state + c, x.Dv, x.Dk, 4 * lanes(), out + c, ahead(c));
    for (; c < end; c += lanes())
      step_columns<1>(token, v + c, x.state + c, x.Dv, x.Dk, std::min(lanes(), end - c), out + c, ahead(c));
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();
#endif
