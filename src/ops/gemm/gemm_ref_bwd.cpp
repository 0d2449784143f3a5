// Definition of the gradients of products: plain loops, accumulation in double, one rounding to f32.
#include "ops/gemm/gemm_bwd.h"

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

// y is bilinear: the factor of dy[m, n] in dL/dx[m, k] is w[n, k], in dL/dw[n, k] it is x[row(m), k].
void gemm_ref_bwd(const GemmBwdArgs& args) {
  for (const GemmBwdProblem& p : args.problems) {
    const int64_t M = p.dy[0], N = p.dy[1];
    for (int64_t m = 0; p.dx && m < M; ++m)
      for (int64_t k = 0; k < p.dx[1]; ++k) {
        float& dx = p.dx.row<float>(m)[k];
        double sum = p.accumulate_dx ? dx : 0;
        for (int64_t n = 0; n < N; ++n) sum += value(p.dy, m, n) * value(p.w_t, k, n);
        dx = static_cast<float>(sum);
      }
    for (int64_t n = 0; p.dw && n < N; ++n)
      for (int64_t k = 0; k < p.dw[1]; ++k) {
        float& dw = p.dw.row<float>(n)[k];
        double sum = dw;
        for (int64_t m = 0; m < M; ++m) sum += value(p.dy, m, n) * value(p.x, p.rows ? p.rows[m] : m, k);
        dw = static_cast<float>(sum);
      }
  }
}

}  // namespace linnet::ops
