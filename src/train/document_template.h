// DocumentTemplate: a document from the fields of a JSON object: "{title}\n{author}\n\n{text}".
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/json_fields.h"

namespace linnet::train {

class DocumentTemplate {
 public:
  // {name} is the value of that key, a string or an integer; {{ and }} are braces. Throws InvalidArgument.
  explicit DocumentTemplate(std::string_view text);
  static std::string defect_of(std::string_view text);  // empty: none

  // Keys that the template does not name are no matter. Throws FormatError for one that is missing or of another kind.
  std::string apply(const formats::JsonFields& fields) const;

 private:
  struct Part {
    bool is_field;
    std::string text;  // or the field's name
  };
  static std::string parse(std::string_view text, std::vector<Part>& parts);

  std::vector<Part> parts_;
};

}  // namespace linnet::train
