// Gradient, chunk path: through the decays of rows. Included once per instruction set.
//
// A row that carries a product of decays, x_i = y_i prod_r d_r, gives dy_i = dx_i prod_r d_r, and to the log-decay of each
// token r in its product dx_i x_i. So the gradient of token r's log-decay is a sum of dx_i x_i over the rows whose product
// contains it: rows at and after r when products run on from the first token, rows before r when they run up to the last
// one. All the terms of such a sum are factors of the same decay: nothing is added that has to be taken away again, and a
// decay of 0 gets a gradient of exactly 0.
#if defined(LINNET_LINEAR_ATTN_BWD_ROWS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_LINEAR_ATTN_BWD_ROWS_INL
#undef LINNET_LINEAR_ATTN_BWD_ROWS_INL
#else
#define LINNET_LINEAR_ATTN_BWD_ROWS_INL
#endif

#include "ops/linear_attn/linear_attn_simd_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

HWY_INLINE Vec at(const float* p) { return hn::LoadU(F(), p); }
HWY_INLINE void put(Vec v, float* p) { hn::StoreU(v, F(), p); }
HWY_INLINE void add_product(Vec a, const float* b, float* to) { put(hn::MulAdd(a, at(b), at(to)), to); }

// Rows and their decays, [n, ld] each; every function below takes whole vectors of channels.
struct DecayedRows {
  const float* d;  // decays of the tokens
  int64_t n, ld;
  float *product, *sum;  // [ld] scratch

  void start(float* row, float value) const { std::fill_n(row, ld, value); }
};

// Products that run on from the first row: row i carries d_1 .. d_i, and d_0 too when `first`.
// dq_i += dx_i prod, dk_i += dy_i prod.
HWY_INLINE void undecay_onwards(const DecayedRows& rows, bool first, const float* dx, const float* dy, float* dq,
                                float* dk) {
  rows.start(rows.product, 1.0f);
  for (int64_t i = 0; i < rows.n; ++i)
    for (int64_t c = 0; c < rows.ld; c += lanes()) {
      const int64_t ic = i * rows.ld + c;
      Vec product = at(rows.product + c);
      if (i > 0 || first) product = hn::Mul(product, at(rows.d + ic));
      put(product, rows.product + c);
      add_product(product, dx + ic, dq + ic);
      if (dy) add_product(product, dy + ic, dk + ic);
    }
}
// dg_r += sum_{i >= r} dx_i x_i + dy_i y_i.
HWY_INLINE void add_sums_from(const DecayedRows& rows, const float* dx, const float* x, const float* dy, const float* y,
                              float* dg) {
  rows.start(rows.sum, 0.0f);
  for (int64_t i = rows.n - 1; i >= 0; --i)
    for (int64_t c = 0; c < rows.ld; c += lanes()) {
      const int64_t ic = i * rows.ld + c;
      Vec sum = hn::MulAdd(at(dx + ic), at(x + ic), at(rows.sum + c));
      if (dy) sum = hn::MulAdd(at(dy + ic), at(y + ic), sum);
      put(sum, rows.sum + c);
      put(hn::Add(sum, at(dg + ic)), dg + ic);
    }
}

// Products that run up to the last row: row j carries d_{j+1} .. d_{n-1}, and d_n too when `next`. dk_j += dx_j prod.
HWY_INLINE void undecay_up_to(const DecayedRows& rows, bool next, const float* dx, float* dk) {
  rows.start(rows.product, 1.0f);
  for (int64_t j = rows.n - 1; j >= 0; --j)
    for (int64_t c = 0; c < rows.ld; c += lanes()) {
      const int64_t jc = j * rows.ld + c;
      Vec product = at(rows.product + c);
      if (j < rows.n - 1 || next) product = hn::Mul(product, at(rows.d + jc + rows.ld));
      put(product, rows.product + c);
      add_product(product, dx + jc, dk + jc);
    }
}
// dg_r += start + sum_{j < r} dx_j x_j; `start` [ld], or null for 0.
HWY_INLINE void add_sums_before(const DecayedRows& rows, const float* start, const float* dx, const float* x,
                                float* dg) {
  if (start) std::copy_n(start, rows.ld, rows.sum);
  else rows.start(rows.sum, 0.0f);
  for (int64_t j = 0; j < rows.n; ++j)
    for (int64_t c = 0; c < rows.ld; c += lanes()) {
      const int64_t jc = j * rows.ld + c;
      const Vec sum = at(rows.sum + c);
      put(hn::Add(sum, at(dg + jc)), dg + jc);
      put(hn::MulAdd(at(dx + jc), at(x + jc), sum), rows.sum + c);
    }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();
#endif
