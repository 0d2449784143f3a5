// Definition of the products: plain loops, accumulation in double, one rounding to f32.
#include "ops/gemm/gemm.h"

namespace linnet::ops {
namespace {

double value(const ConstTensor& t, int64_t row, int64_t column) {
  switch (t.dtype) {
    case DType::bf16: return to_f32(t.row<bf16>(row)[column]);
    case DType::f16: return to_f32(t.row<f16>(row)[column]);
    default: return t.row<float>(row)[column];
  }
}

}  // namespace

void gemm_ref(const GemmArgs& args) {
  for (const GemmProblem& p : args.problems) {
    const int64_t M = p.y[0], N = p.y[1], K = p.x[p.x_is_in_out ? 0 : 1];
    for (int64_t m = 0; m < M; ++m)
      for (int64_t n = 0; n < N; ++n) {
        float& y = p.y.row<float>(m)[n];
        double sum = p.accumulate ? y : 0;
        for (int64_t k = 0; k < K; ++k)
          sum += (p.x_is_in_out ? value(p.x, k, m) : value(p.x, p.rows ? p.rows[m] : m, k)) *
                 (p.w_is_in_out ? value(p.w, k, n) : value(p.w, n, k));
        y = static_cast<float>(sum);
      }
  }
}

}  // namespace linnet::ops
