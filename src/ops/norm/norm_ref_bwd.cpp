// Gradients of the normalisations: the definition, plain loops in double.
//
// With r = (q sum x^2 + eps)^-1/2, q = 1 / width (RMS) or 1 (L2):  dr/dx_i = -q r^3 x_i. So for y = x r and its gradient g:
//   dx_i = r g_i + (sum_j g_j x_j) dr/dx_i = r (g_i - y_i q sum_j g_j y_j).
#include <cmath>
#include <vector>

#include "ops/norm/norm_bwd.h"

namespace linnet::ops {
namespace {

using Row = std::vector<double>;

// r of one row.
double inverse_root(const float* x, int64_t width, double q, double eps) {
  double sum = 0;
  for (int64_t i = 0; i < width; ++i) sum += static_cast<double>(x[i]) * x[i];
  return 1 / std::sqrt(q * sum + eps);
}

// dx of one row from the gradient g of y = x r.
Row unscaled_gradient(const float* x, double r, double q, const Row& g) {
  double product = 0;
  for (size_t i = 0; i < g.size(); ++i) product += g[i] * x[i] * r;
  Row dx(g.size());
  for (size_t i = 0; i < g.size(); ++i) dx[i] = r * (g[i] - x[i] * r * q * product);
  return dx;
}

void add_to(float* out, const Row& sum) {
  for (size_t i = 0; i < sum.size(); ++i) out[i] = static_cast<float>(out[i] + sum[i]);
}

}  // namespace

void rms_norm_ref_bwd(const RmsNormBwdArgs& a) {
  const int64_t C = a.x[1];
  const size_t width = static_cast<size_t>(C);
  const double q = 1 / static_cast<double>(C);
  Row g(width), dweight(width);
  for (int64_t n = 0; n < a.x[0]; ++n) {
    const float *x = a.x.row<float>(n), *dy = a.dy.row<float>(n);
    const double r = inverse_root(x, C, q, a.eps);
    for (size_t c = 0; c < width; ++c) {
      g[c] = static_cast<double>(dy[c]) * a.weight.as<float>()[c];
      dweight[c] += dy[c] * (x[c] * r);
    }
    const Row dx = unscaled_gradient(x, r, q, g);
    for (size_t c = 0; c < width; ++c) {
      float& out = a.dx.row<float>(n)[c];
      out = static_cast<float>(a.accumulate ? out + dx[c] : dx[c]);
    }
  }
  add_to(a.dweight.as<float>(), dweight);
}

void l2_norm_ref_bwd(const L2NormBwdArgs& a) {
  const int64_t H = a.x[1], D = a.x[2];
  Row g(static_cast<size_t>(D));
  for (int64_t n = 0; n < a.x[0]; ++n)
    for (int64_t h = 0; h < H; ++h) {
      const float *x = a.x.row<float>(n) + h * D, *dy = a.dy.row<float>(n) + h * D;
      for (size_t d = 0; d < g.size(); ++d) g[d] = dy[d];
      const Row dx = unscaled_gradient(x, inverse_root(x, D, 1, a.eps), 1, g);
      for (size_t d = 0; d < g.size(); ++d) (a.dx.row<float>(n) + h * D)[d] = static_cast<float>(dx[d]);
    }
}

void gated_norm_ref_bwd(const GatedNormBwdArgs& a) {
  const int64_t H = a.x[1], D = a.x[2];
  const size_t width = static_cast<size_t>(D);
  const double q = 1 / static_cast<double>(D);
  const float* weight = a.weight.as<float>();
  Row g(width), dgate(width), dweight(width);
  for (int64_t n = 0; n < a.x[0]; ++n)
    for (int64_t h = 0; h < H; ++h) {
      const float *x = a.x.row<float>(n) + h * D, *dy = a.dy.row<float>(n) + h * D;
      const float* gate = a.gate.row<float>(n) + h * D;
      const double r = inverse_root(x, D, q, a.eps);
      for (size_t d = 0; d < width; ++d) {
        const double z = gate[d], s = 1 / (1 + std::exp(-z)), t = 1 / (1 + std::exp(z));  // t = 1 - s
        const bool is_sigmoid = a.activation == GateActivation::sigmoid;
        const double act = is_sigmoid ? s : z * s, slope = is_sigmoid ? s * t : s * (1 + z * t);
        g[d] = dy[d] * act * weight[d];
        dgate[d] = dy[d] * (x[d] * r) * weight[d] * slope;
        dweight[d] += dy[d] * (x[d] * r) * act;
      }
      const Row dx = unscaled_gradient(x, r, q, g);
      for (size_t d = 0; d < width; ++d) {
        (a.dx.row<float>(n) + h * D)[d] = static_cast<float>(dx[d]);
        (a.dgate.row<float>(n) + h * D)[d] = static_cast<float>(dgate[d]);
      }
    }
  add_to(a.dweight.as<float>(), dweight);
}

}  // namespace linnet::ops
