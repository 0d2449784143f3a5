// Errors: the type says who is at fault, the text says the place, what was expected and what came. One line, with values.
// Library code throws these at load and plan time; it never prints, exits or aborts. Hot calls are noexcept.
#pragma once

#include <stdexcept>
#include <string>

namespace linnet {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct InvalidArgument : Error {
  using Error::Error;
};  // the caller: a wrong option, shape or value
struct Unsupported : Error {
  using Error::Error;
};  // nothing here can do it: the text lists why each variant refused
struct FormatError : Error {
  using Error::Error;
};  // a file: its content is not what its format promises
struct IoError : Error {
  using Error::Error;
};  // the system: unreadable file, full disk
struct OutOfMemory : Error {
  using Error::Error;
};  // asked for more than there is
struct DeviceError : Error {
  using Error::Error;
};  // an accelerator or its driver
struct InternalError : Error {
  using Error::Error;
};  // us: a bug in Linnet

// Process exit status of each kind, used by every command. Anything else that escapes is InternalError.
//   usage 2: InvalidArgument, Unsupported    bad file 3: FormatError, IoError    memory 4: OutOfMemory    bug 70
int exit_status(const std::exception& e) noexcept;

}  // namespace linnet
