#include "formats/tensor_spec.h"

#include <algorithm>
#include <unordered_set>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::formats {
namespace {

struct FileName {
  const char* name;
  DType dtype;
};
constexpr FileName kFileNames[] = {{"F32", DType::f32}, {"BF16", DType::bf16}, {"F16", DType::f16},
                                   {"I32", DType::i32}, {"I64", DType::i64},   {"U8", DType::u8}};

}  // namespace

const char* file_name_of(DType dtype) {
  for (const FileName& entry : kFileNames)
    if (entry.dtype == dtype) return entry.name;
  return "?";
}

std::optional<DType> dtype_of_file_name(std::string_view name) {
  for (const FileName& entry : kFileNames)
    if (name == entry.name) return entry.dtype;
  return std::nullopt;
}

std::optional<int64_t> bytes_of(DType dtype, std::span<const int64_t> shape) {
  int64_t bytes = size_of(dtype);
  bool empty = false;
  for (int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    empty |= extent == 0;
    if (extent > 0 && __builtin_mul_overflow(bytes, extent, &bytes)) return std::nullopt;
  }
  return empty ? 0 : bytes;
}

std::string defect_of(const TensorSpec& spec) {
  if (spec.name.empty()) return "expected a name";
  if (spec.name == "__metadata__") return "expected another name: the format reserves this one";
  if (spec.shape.size() > static_cast<size_t>(kMaxRank))
    return cat("expected at most ", kMaxRank, " extents, got ", shape_text(spec.shape));
  if (!bytes_of(spec.dtype, spec.shape))
    return cat("expected extents >= 0 whose product fits in 63 bits of bytes, got ", shape_text(spec.shape));
  return "";
}

void expect_writable(std::span<const TensorSpec> specs, std::string_view place) {
  constexpr int64_t kMaxBytes = int64_t{1} << 62;
  std::unordered_set<std::string_view> names;
  int64_t total = 0;
  for (const TensorSpec& spec : specs) {
    std::string defect = names.insert(spec.name).second ? defect_of(spec) : "expected one such tensor, got two";
    const int64_t bytes = defect.empty() ? *bytes_of(spec.dtype, spec.shape) : 0;
    if (bytes > kMaxBytes - total) defect = cat("expected at most 2^62 bytes in all, got ", bytes, " after ", total);
    if (!defect.empty()) throw InvalidArgument(cat(place, ": ", printable(spec.name, 120), ": ", defect));
    total += bytes;
  }
}

ConstTensor view_of(const std::byte* data, DType dtype, std::span<const int64_t> shape) {
  ConstTensor view(data, dtype, {1});
  if (shape.empty()) return view;
  view.rank = static_cast<int>(shape.size());
  view.shape.fill(0);
  std::copy(shape.begin(), shape.end(), view.shape.begin());
  view.row_stride = view.row_elements();
  return view;
}

}  // namespace linnet::formats
