#include "train/parameters.h"

#include <cstring>

#include "core/bulk.h"
#include "core/errors.h"
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

constexpr int64_t kGrain = int64_t{1} << 16;  // elements a thread takes at a time

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
    : precision_(precision), memory_(static_cast<size_t>(bytes_of(model.table(), precision).total())) {
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
  for (const Parameter& p : all_) clear_bytes(p.grad.data, p.grad.bytes(), exec);
}

void Parameters::refresh(const Exec& exec) {
  for (const Parameter& p : all_) {
    if (!p.row->matrix) continue;
    const float* from = p.master.as<float>();
    std::byte* to = const_cast<std::byte*>(p.row->matrix->w.data);
    exec.pool.parallel_for(p.master.elements(), kGrain, [&](int64_t begin, int64_t end, int) {
      if (precision_ == DType::f32)
        std::memcpy(to + begin * 4, from + begin, static_cast<size_t>(end - begin) * sizeof(float));
      else
        for (int64_t i = begin; i < end; ++i) reinterpret_cast<bf16*>(to)[i] = to_bf16(from[i]);
    });
    const ConstTensor w_t = p.row->matrix->w_t;
    ops::transpose(p.row->matrix->w, Tensor(const_cast<std::byte*>(w_t.data), w_t.dtype, {w_t[0], w_t[1]}), exec);
  }
}

}  // namespace linnet::train
