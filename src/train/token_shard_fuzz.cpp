// Any bytes as a token shard: refused with FormatError, or documents whose ids are in the vocabulary. Each input is read as it is,
// and once more with the right length and checksum put in, because hardly any input would pass those two by itself.
#include <cstring>
#include <vector>

#include "core/errors.h"
#include "train/token_shard_file.h"
#include "train/token_shards.h"

namespace {

void read_all(std::span<const std::byte> bytes) {
  using namespace linnet;
  try {
    const train::TokenShardView view = train::parse_token_shard(bytes, "fuzz");
    uint64_t begin = 0;
    for (const uint64_t end : view.ends) {
      const uint64_t size = end - begin;
      const auto document =
          view.id_bytes == 2
              ? train::DocumentTokens(std::span(reinterpret_cast<const uint16_t*>(view.tokens) + begin, size))
              : train::DocumentTokens(std::span(reinterpret_cast<const uint32_t*>(view.tokens) + begin, size));
      if (document.size() == 0) __builtin_trap();
      for (int64_t i = 0; i < document.size(); ++i)
        if (document[i] < 0 || document[i] >= view.ids.vocab_size) __builtin_trap();
      begin = end;
    }
    if (static_cast<int64_t>(begin) != view.n_tokens) __builtin_trap();
  } catch (const FormatError&) {}
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint64_t> memory(size / 8 + 1);  // not empty: memcpy wants a place even for no bytes
  std::memcpy(memory.data(), data, size);
  const auto bytes = std::as_writable_bytes(std::span(memory)).first(size);
  read_all(bytes);
  if (size < 64) return 0;
  const uint64_t file_bytes = size;
  std::memcpy(bytes.data() + 16, &file_bytes, 8);
  const uint64_t checksum = linnet::train::token_shard_checksum(bytes);
  std::memcpy(bytes.data() + 24, &checksum, 8);
  read_all(bytes);
  return 0;
}
