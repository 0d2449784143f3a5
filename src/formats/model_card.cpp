#include "formats/model_card.h"

#include "formats/json_fields.h"

namespace linnet::formats {

ModelCard ModelCard::load(const std::filesystem::path& folder) {
  constexpr size_t kMaxBytes = 65536;  // it is sent to every page
  const std::filesystem::path file = folder / "linnet.json";
  std::error_code none;
  if (!std::filesystem::exists(file, none)) return {};
  const JsonFields fields = JsonFields::read(file, kMaxBytes);
  ModelCard card{.description = fields.string("description"), .examples = {}};
  if (fields.has("examples"))
    for (const JsonFields& example : fields.objects("examples")) {
      card.examples.push_back(
          {.title = example.optional_string("title").value_or(""), .prompt = example.string("prompt")});
      if (card.examples.back().prompt.empty()) throw example.error("prompt", "a text");
      example.refuse_unread_keys();
    }
  fields.refuse_unread_keys();
  return card;
}

}  // namespace linnet::formats
