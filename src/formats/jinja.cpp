#include "formats/jinja.h"

#include "formats/jinja_context.h"
#include "formats/jinja_nodes.h"
#include "formats/jinja_parser.h"

namespace linnet::formats::jinja {

Template Template::parse(std::string name, std::string_view source) {
  auto body = std::make_shared<const Block>(parse_template(name, source));
  return Template(std::move(name), std::move(body));
}

Text Template::render(const std::vector<std::pair<std::string, Value>>& variables, uint64_t work) const {
  for (const auto& [name, value] : variables) work += 64 * value.weight();
  Context context(name_, work);
  add_builtin_functions(context);
  for (const auto& [name, value] : variables) context.globals().set(name, value);
  Text out;
  run_block(*body_, context, context.globals(), out);
  return out;
}

}  // namespace linnet::formats::jinja
