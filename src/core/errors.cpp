#include "core/errors.h"

#include <new>

namespace linnet {

int exit_status(const std::exception& e) noexcept {
  if (dynamic_cast<const InvalidArgument*>(&e) || dynamic_cast<const Unsupported*>(&e)) return 2;
  if (dynamic_cast<const FormatError*>(&e) || dynamic_cast<const IoError*>(&e)) return 3;
  if (dynamic_cast<const OutOfMemory*>(&e) || dynamic_cast<const std::bad_alloc*>(&e)) return 4;
  return 70;
}

}  // namespace linnet
