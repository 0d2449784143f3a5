// Fuzzer of JsonFields: every getter on every key of every object, with all that they may answer.
#include <cmath>
#include <string_view>

#include "core/errors.h"
#include "formats/json_fields.h"

namespace {

using linnet::FormatError;
using linnet::formats::JsonFields;

template <class Getter>
void attempt(Getter get) {
  try {
    get();
  } catch (const FormatError&) {}
}

void walk(const JsonFields& fields) {
  for (const std::string& key : fields.keys()) {
    if (fields.has(key) != (fields.kind(key) != linnet::formats::JsonKind::null)) abort();
    attempt([&] {
      if (fields.integer(key, -5, 1 << 20) < -5) abort();
    });
    attempt([&] {
      if (!std::isfinite(fields.number(key, -HUGE_VAL, HUGE_VAL))) abort();
    });
    attempt([&] { fields.optional_boolean(key); });
    attempt([&] { fields.optional_string(key); });
    attempt([&] { fields.optional_integers(key, INT64_MIN, INT64_MAX); });
    attempt([&] { fields.optional_strings(key); });
    attempt([&] { walk(fields.object(key)); });
    attempt([&] {
      for (const JsonFields& element : fields.objects(key)) walk(element);
    });
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  attempt([&] {
    const JsonFields fields = JsonFields::parse({reinterpret_cast<const char*>(data), size}, "fuzz");
    attempt([&] { fields.refuse_unread_keys(); });
    walk(fields);
    if (!fields.unread_keys().empty()) abort();
  });
  return 0;
}
