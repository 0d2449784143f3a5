// Tensor: a non-owning view of row-major numbers. Op arguments are made of these.
#pragma once

#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <type_traits>

#include "core/dtype.h"

namespace linnet {

constexpr int kMaxRank = 4;

// Byte is std::byte (Tensor) or const std::byte (ConstTensor). The last index is contiguous; the stride of the first index
// may exceed its width (a column range of a wider matrix), inner indices are dense. A default-made view is "absent".
template <class Byte>
struct BasicTensor {
  Byte* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};
  int64_t row_stride = 0;  // elements between consecutive first indices

  BasicTensor() = default;

  BasicTensor(std::conditional_t<std::is_const_v<Byte>, const void*, void*> memory, DType type,
              std::initializer_list<int64_t> dims)
      : data(static_cast<Byte*>(memory)), dtype(type), rank(static_cast<int>(dims.size())) {
    assert(dims.size() <= kMaxRank);
    int i = 0;
    for (int64_t d : dims) shape[static_cast<size_t>(i++)] = d;
    row_stride = row_elements();
  }

  // A view of typed memory; the element type names the dtype.
  template <class T>
  static BasicTensor of(T* memory, std::initializer_list<int64_t> dims) {
    return BasicTensor(memory, DTypeOf<std::remove_const_t<T>>::value, dims);
  }

  operator BasicTensor<const std::byte>() const {
    BasicTensor<const std::byte> t;
    t.data = data, t.dtype = dtype, t.rank = rank, t.shape = shape, t.row_stride = row_stride;
    return t;
  }

  explicit operator bool() const { return rank > 0; }
  int64_t operator[](int i) const { return shape[static_cast<size_t>(i)]; }
  std::span<const int64_t> dims() const { return {shape.data(), static_cast<size_t>(rank)}; }

  int64_t row_elements() const {  // elements of one first index
    int64_t n = 1;
    for (int i = 1; i < rank; ++i) n *= (*this)[i];
    return n;
  }
  int64_t elements() const { return rank == 0 ? 0 : (*this)[0] * row_elements(); }
  int64_t bytes() const { return elements() * size_of(dtype); }
  bool dense() const { return rank == 0 || (*this)[0] <= 1 || row_stride == row_elements(); }

  template <class T>
  auto* as() const {
    assert(dtype == DTypeOf<T>::value);
    return reinterpret_cast<std::conditional_t<std::is_const_v<Byte>, const T, T>*>(data);
  }
  template <class T>
  auto* row(int64_t i) const {
    return as<T>() + i * row_stride;
  }

  // Rows [begin, end) of the first index.
  BasicTensor rows(int64_t begin, int64_t end) const {
    BasicTensor t = *this;
    t.data += begin * row_stride * size_of(dtype);
    t.shape[0] = end - begin;
    return t;
  }
  // Columns [begin, end) of a matrix: a view with the matrix's row stride.
  BasicTensor columns(int64_t begin, int64_t end) const {
    assert(rank == 2);
    BasicTensor t = *this;
    t.data += begin * size_of(dtype);
    t.shape[1] = end - begin;
    return t;
  }
  // Same memory, another shape with as many elements per row; a strided view keeps its first index.
  BasicTensor reshaped(std::initializer_list<int64_t> dims) const {
    BasicTensor t(data, dtype, dims);
    assert(t.elements() == elements());
    if (!dense()) assert(t[0] == (*this)[0]), t.row_stride = row_stride;
    return t;
  }
};

using Tensor = BasicTensor<std::byte>;
using ConstTensor = BasicTensor<const std::byte>;

// "[4096, 16] f32", or "absent".
std::string text_of(const ConstTensor& t);

// Throws InvalidArgument "op: name: expected [..] f32, got [..] bf16" unless t has this dtype and shape (-1 = any extent).
void expect_tensor(const char* op, const char* name, const ConstTensor& t, DType dtype,
                   std::initializer_list<int64_t> dims);

}  // namespace linnet
