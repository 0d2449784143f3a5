// Fuzzer of safetensors files. What is accepted must be usable: every tensor's bytes are read.
#include <cstdlib>
#include <string>

#include "core/errors.h"
#include "formats/checkpoint.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace linnet;
  try {
    const auto file = formats::Checkpoint::from_memory({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
    int64_t total = 0;
    unsigned sum = 0;
    for (const std::string& name : file.names()) {
      const ConstTensor t = file.find(name).value();
      if (t.bytes() != t.elements() * size_of(t.dtype)) abort();
      if (reinterpret_cast<uintptr_t>(t.data) % static_cast<uintptr_t>(size_of(t.dtype)) != 0) abort();
      for (int64_t i = 0; i < t.bytes(); ++i) sum += static_cast<unsigned>(t.data[i]);
      total += t.bytes();
    }
    if (total != file.total_bytes()) abort();
    volatile unsigned keep = sum;
    (void)keep;
  } catch (const FormatError&) {}
  return 0;
}
