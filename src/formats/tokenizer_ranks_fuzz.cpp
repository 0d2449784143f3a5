// Any bytes as a ranks file: refused with FormatError, or a table whose tokens find themselves.
#include "core/errors.h"
#include "formats/tokenizer_ranks.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace linnet;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const auto table = formats::RankTable::parse(text, "ranks");
    for (formats::TokenId id = 0; id < table.size(); ++id) {
      if (table.find(table.bytes(id)) != id) __builtin_trap();
    }
  } catch (const FormatError&) {}
  return 0;
}
