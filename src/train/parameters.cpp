#include "train/parameters.h"

#include <algorithm>
#include <cstring>

#include "core/errors.h"
#include "core/task_list.h"
#include "core/text.h"
#include "model/initialize.h"
#include "model/load.h"
#include "ops/gemm/gemm_bwd.h"

namespace linnet::train {
namespace {

using model::OptimizerGroup;
using model::TensorRow;

int64_t elements_of(const TensorRow& row) {
  int64_t n = 1;
  for (int64_t d : row.shape) n *= d;
  return n;
}

bool has_first(const TensorRow& row) { return row.group != OptimizerGroup::frozen; }
bool has_second(const TensorRow& row) { return has_first(row) && row.group != OptimizerGroup::muon; }

int64_t padded(int64_t n, DType dtype) {
  return static_cast<int64_t>(aligned_size(static_cast<size_t>(n * size_of(dtype))));
}

constexpr int64_t kClearBytes = 64 << 10;  // that a thread clears at a time

}  // namespace

Parameters::Bytes Parameters::bytes_of(const model::TensorTable& table, DType precision) {
  Bytes bytes;
  for (const TensorRow& row : table.rows()) {
    const int64_t n = elements_of(row), f32 = padded(n, DType::f32);
    bytes.masters += f32, bytes.gradients += f32;
    bytes.optimizer += f32 * (has_first(row) + has_second(row));
    if (row.matrix) bytes.copies += padded(n, precision) * 2;
  }
  return bytes;
}

Parameters::Parameters(model::KimiLinear& model, DType precision)
    : memory_(static_cast<size_t>(bytes_of(model.table(), precision).total())) {
  std::byte* at = memory_.data();
  const auto take = [&](DType dtype, int64_t rows, int64_t columns) {
    const Tensor t(at, dtype, {rows, columns});
    at += padded(rows * columns, dtype);
    return t;
  };
  for (const TensorRow& row : model.table().rows()) {
    int64_t out = elements_of(row), in = 1;
    Parameter p{.row = &row, .master = {}, .grad = {}, .first = {}, .second = {}};
    if (row.matrix) {
      out = row.shape[0], in = row.shape[1];
      p.master = take(DType::f32, out, in), p.grad = take(DType::f32, out, in);
      *row.matrix = {
          .w = take(precision, out, in), .w_t = take(precision, in, out), .grad = p.grad, .master = p.master};
    } else {
      p.master = row.f32.reshaped({out, in}), p.grad = row.f32_grad.reshaped({out, in});
    }
    if (has_first(row)) p.first = take(DType::f32, out, in);
    if (has_second(row)) p.second = take(DType::f32, out, in);
    all_.push_back(p);
  }
}

void Parameters::initialize(float stddev, uint64_t seed) {
  for (const Parameter& p : all_)
    model::draw_values(*p.row, stddev, seed, 0, {p.master.as<float>(), static_cast<size_t>(p.master.elements())});
}

void Parameters::load(const formats::Checkpoint& checkpoint) {
  for (const Parameter& p : all_) model::copy_parameter(checkpoint, *p.row, p.master);
}

void Parameters::zero_gradients(const Exec& exec) {
  const auto grad = [&](int64_t i) { return all_[static_cast<size_t>(i)].grad; };
  const auto pieces = [&](int64_t i) { return (grad(i).bytes() + kClearBytes - 1) / kClearBytes; };
  for_tasks(exec.pool, static_cast<int64_t>(all_.size()), 1, pieces, [&](int64_t i, int64_t piece) {
    const int64_t from = piece * kClearBytes, n = std::min(kClearBytes, grad(i).bytes() - from);
    std::memset(grad(i).data + from, 0, static_cast<size_t>(n));
  });
}

void Parameters::refresh(const Exec& exec) {
  std::vector<ops::WeightCopies> copies;
  const auto writable = [](const ConstTensor& t) {
    return Tensor(const_cast<std::byte*>(t.data), t.dtype, {t[0], t[1]});
  };
  for (const Parameter& p : all_)
    if (p.row->matrix)
      copies.push_back({.from = p.master, .w = writable(p.row->matrix->w), .w_t = writable(p.row->matrix->w_t)});
  ops::copy_weights(copies, exec);
}

}  // namespace linnet::train
