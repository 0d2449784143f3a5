// Definitions of the optimizer steps: plain loops in double.
#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/optim/optim.h"

namespace linnet::ops {

void adamw_ref(const AdamWArgs& a) {
  const double b1 = a.beta1, b2 = a.beta2, step = static_cast<double>(a.step);
  for (int64_t i = 0; i < a.w.elements(); ++i) {
    float &w = a.w.as<float>()[i], &m = a.m.as<float>()[i], &v = a.v.as<float>()[i];
    const double g = double{a.grad_scale} * a.grad.as<float>()[i];
    const double new_m = b1 * m + (1 - b1) * g, new_v = b2 * v + (1 - b2) * g * g;
    const double direction = new_m / (1 - std::pow(b1, step)) / (std::sqrt(new_v / (1 - std::pow(b2, step))) + a.eps);
    w = static_cast<float>(w - a.lr * (direction + double{a.weight_decay} * w));
    m = static_cast<float>(new_m), v = static_cast<float>(new_v);
  }
}

namespace {

// Row-major, rows x columns.
struct Matrix {
  size_t rows, columns;
  std::vector<double> at;
  Matrix(size_t r, size_t c) : rows(r), columns(c), at(r * c) {}
};

Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c(a.rows, b.columns);
  for (size_t i = 0; i < a.rows; ++i)
    for (size_t k = 0; k < a.columns; ++k)
      for (size_t j = 0; j < b.columns; ++j)
        c.at[i * c.columns + j] += a.at[i * a.columns + k] * b.at[k * b.columns + j];
  return c;
}

Matrix transposed(const Matrix& a) {
  Matrix t(a.columns, a.rows);
  for (size_t i = 0; i < a.rows; ++i)
    for (size_t j = 0; j < a.columns; ++j) t.at[j * a.rows + i] = a.at[i * a.columns + j];
  return t;
}

// A polynomial of odd powers of X: it acts on the singular values alone and takes them near 1.
Matrix newton_schulz(Matrix x) {
  constexpr double a = 3.4445, b = -4.7750, c = 2.0315;
  if (x.rows > x.columns) return transposed(newton_schulz(transposed(x)));
  for (int iteration = 0; iteration < 5; ++iteration) {
    const Matrix square = product(x, transposed(x)), cube = product(square, x), fifth = product(square, cube);
    for (size_t i = 0; i < x.at.size(); ++i) x.at[i] = a * x.at[i] + b * cube.at[i] + c * fifth.at[i];
  }
  return x;
}

}  // namespace

void muon_ref(const MuonArgs& args) {
  for (const MuonMatrix& matrix : args.matrices) {
    const int64_t N = matrix.w[0], K = matrix.w[1];
    Matrix u(static_cast<size_t>(N), static_cast<size_t>(K));
    double squares = 0;
    for (int64_t i = 0; i < N * K; ++i) {
      float& m = matrix.m.as<float>()[i];
      const double g = double{args.grad_scale} * matrix.grad.as<float>()[i];
      const double new_m = double{args.momentum} * m + g;
      const double value = args.nesterov ? g + double{args.momentum} * new_m : new_m;
      m = static_cast<float>(new_m);
      u.at[static_cast<size_t>(i)] = value, squares += value * value;
    }
    for (double& value : u.at) value = squares == 0 ? 0 : value / std::sqrt(squares);
    const Matrix o = newton_schulz(u);
    const double factor = 0.2 * std::sqrt(static_cast<double>(std::max(N, K)));
    for (int64_t i = 0; i < N * K; ++i) {
      float& w = matrix.w.as<float>()[i];
      w = static_cast<float>(w - args.lr * (factor * o.at[static_cast<size_t>(i)] + double{args.weight_decay} * w));
    }
  }
}

}  // namespace linnet::ops
