// A tensor of a file: name, element type, shape. With the arithmetic on extents that come from outside.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace linnet::formats {

using Metadata = std::map<std::string, std::string, std::less<>>;

struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;  // at most kMaxRank extents, none negative
};

// "BF16" <-> DType::bf16: the names that safetensors gives the types that Linnet has.
const char* file_name_of(DType dtype);
std::optional<DType> dtype_of_file_name(std::string_view name);

// Bytes of a dense tensor. None when an extent is negative, or when the product of the extents other than zero, times the
// element size, is beyond int64: so every partial product that a view computes fits too.
std::optional<int64_t> bytes_of(DType dtype, std::span<const int64_t> shape);

// "" when the spec can be written: a name, rank <= kMaxRank, extents that bytes_of() accepts; else what is wrong.
std::string defect_of(const TensorSpec& spec);

// Throws InvalidArgument, beginning with `place`, for the first defect, for a name given twice, and when the tensors have more
// than 2^62 bytes together (a file, header and all, then stays within the system's signed offsets).
void expect_writable(std::span<const TensorSpec> specs, std::string_view place);

// A dense view. Shape [] (one number) becomes [1], because a view of rank 0 means "absent".
ConstTensor view_of(const std::byte* data, DType dtype, std::span<const int64_t> shape);

}  // namespace linnet::formats
