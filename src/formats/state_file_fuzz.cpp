// Fuzzer of state files. Each input is read as it is, and once more with the right length and checksum put in, because
// hardly any input would pass those two by itself.
#include <cstring>
#include <vector>

#include "core/arena.h"
#include "core/errors.h"
#include "formats/state_file.h"

namespace {

void read_all(std::span<const std::byte> bytes) {
  using namespace linnet;
  try {
    const formats::StateFile file = formats::StateFile::from_memory(bytes, "fuzz");
    unsigned sum = 0;
    for (const formats::StateSection& section : file.sections()) {
      if (!file.find(section.name)) abort();
      if (reinterpret_cast<uintptr_t>(section.data.data) % kAlignment != 0) abort();
      for (int64_t i = 0; i < section.data.bytes(); ++i) sum += static_cast<unsigned>(section.data.data[i]);
    }
    volatile unsigned keep = sum;
    (void)keep;
  } catch (const FormatError&) {}
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<std::byte> memory(size + linnet::kAlignment);
  const auto misaligned = reinterpret_cast<uintptr_t>(memory.data()) % linnet::kAlignment;
  const std::span<std::byte> bytes(memory.data() + (linnet::kAlignment - misaligned), size);
  std::memcpy(bytes.data(), data, size);
  read_all(bytes);
  if (size < 32) return 0;
  const uint64_t file_bytes = size;
  std::memcpy(bytes.data() + 16, &file_bytes, 8);
  const uint64_t checksum = linnet::formats::state_file_checksum(bytes);
  std::memcpy(bytes.data() + 24, &checksum, 8);
  read_all(bytes);
  return 0;
}
