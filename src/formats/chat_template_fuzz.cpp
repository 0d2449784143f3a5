// Any text as a chat template, with a fixed conversation: refused with an error of its kind, or rendered within the bounds.
#include "core/errors.h"
#include "formats/chat_template.h"
#include "formats/jinja_json.h"

namespace {

using namespace linnet::formats;

constexpr uint64_t kWork = 200'000;  // a slow input would hide others
constexpr char kMessages[] = R"([{"role": "system", "content": "s"},
  {"role": "user", "content": " Hello <|im_end|> 中 \n", "name": "Ana"},
  {"role": "assistant", "content": null, "tool_calls": [{"id": "functions.f:0", "function": {"name": "f", "arguments": {"a": [1, 2.5, true, null]}}}]},
  {"role": "tool", "tool_call_id": "functions.f:0", "content": "[BOS]"}])";

using Variables = std::vector<std::pair<std::string, jinja::Value>>;

const Variables& variables() {
  static const Variables all = {{"messages", jinja::value_of_json(kMessages, "messages")},
                                {"tools", jinja::value_of_json(R"([{"name": "f"}])", "tools")},
                                {"add_generation_prompt", jinja::Value(true)},
                                {"bos_token", jinja::make_text("[BOS]")}};
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto source = jinja::Template::parse("t", std::string_view(reinterpret_cast<const char*>(data), size));
    const jinja::Text text = source.render(variables(), kWork);
    (void)jinja::utf8_of(text);
  } catch (const linnet::FormatError&) {
  } catch (const linnet::InvalidArgument&) {}
  return 0;
}
