#include "core/tensor.h"

#include <algorithm>

#include "core/errors.h"
#include "core/text.h"

namespace linnet {

std::string text_of(const ConstTensor& t) { return t ? cat(shape_text(t.dims()), " ", name_of(t.dtype)) : "absent"; }

void expect_tensor(const char* op, const char* name, const ConstTensor& t, DType dtype,
                   std::initializer_list<int64_t> dims) {
  const bool matches = t && t.dtype == dtype && t.rank == static_cast<int>(dims.size()) &&
                       std::equal(dims.begin(), dims.end(), t.shape.begin(),
                                  [](int64_t want, int64_t have) { return want == -1 ? have >= 0 : want == have; });
  if (!matches) {
    std::span<const int64_t> wanted(dims.begin(), dims.size());
    throw InvalidArgument(
        cat(op, ": ", name, ": expected ", shape_text(wanted), " ", name_of(dtype), ", got ", text_of(t)));
  }
  if (!t.data && t.elements() > 0) throw InvalidArgument(cat(op, ": ", name, ": ", text_of(t), " has no memory"));
}

}  // namespace linnet
