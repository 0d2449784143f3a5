#include "train/document_template.h"

#include <algorithm>
#include <utility>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::train {

// Returns what is wrong.
std::string DocumentTemplate::parse(std::string_view text, std::vector<Part>& parts) {
  std::string plain;
  const auto end_plain = [&] {
    if (!plain.empty()) parts.push_back({false, std::exchange(plain, {})});
  };
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c != '{' && c != '}') {
      plain += c;
    } else if (at + 1 < text.size() && text[at + 1] == c) {
      plain += c;
      ++at;
    } else if (c == '}') {
      return cat("byte ", at, ": a } without its {; write }} for the character");
    } else {
      const size_t end = text.find_first_of("{}", at + 1);
      if (end == text.npos || text[end] != '}')
        return cat("byte ", at, ": a { without its }; write {{ for the character");
      if (end == at + 1) return cat("byte ", at, ": expected a field's name between { and }");
      end_plain();
      parts.push_back({true, std::string(text.substr(at + 1, end - at - 1))});
      at = end;
    }
  }
  end_plain();
  const bool any = std::any_of(parts.begin(), parts.end(), [](const Part& part) { return part.is_field; });
  return any ? "" : "expected at least one {field}";
}

std::string DocumentTemplate::defect_of(std::string_view text) {
  std::vector<Part> parts;
  return parse(text, parts);
}

DocumentTemplate::DocumentTemplate(std::string_view text) {
  if (const std::string defect = parse(text, parts_); !defect.empty())
    throw InvalidArgument(cat("template: ", printable(text, 60), ": ", defect));
}

std::string DocumentTemplate::apply(const formats::JsonFields& fields) const {
  std::string document;
  for (const Part& part : parts_) {
    if (!part.is_field) document += part.text;
    else if (fields.kind(part.text) == formats::JsonKind::integer)
      document += std::to_string(fields.integer(part.text, INT64_MIN, INT64_MAX));
    else document += fields.string(part.text);
  }
  return document;
}

}  // namespace linnet::train
