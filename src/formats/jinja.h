// Chat templates' language: the part of Jinja2 that templates of model checkpoints use, as Hugging Face runs it (trim_blocks,
// lstrip_blocks, its own tojson, an immutable sandbox, break, continue, generation). What is not supported is refused by name
// when the template is parsed; a template of any content ends within a bound of work and memory.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/jinja_text.h"
#include "formats/jinja_value.h"

namespace linnet::formats::jinja {

struct Statement;

// Threads may share one.
class Template {
 public:
  // Throws FormatError "NAME:LINE:COLUMN: what".
  static Template parse(std::string name, std::string_view source);

  // Work is counted in evaluated nodes and in characters and elements made or read; the limit is this and 64 times the size of
  // the variables. Throws FormatError (the template does what cannot be done, or not within the limit) and InvalidArgument
  // (the template refuses the conversation: raise_exception), both with the place in the template.
  static constexpr uint64_t kWork = uint64_t{1} << 24;
  Text render(const std::vector<std::pair<std::string, Value>>& variables, uint64_t work = kWork) const;

  const std::string& name() const { return name_; }

 private:
  using Statements = std::vector<std::unique_ptr<Statement>>;
  Template(std::string name, std::shared_ptr<const Statements> body) : name_(std::move(name)), body_(std::move(body)) {}

  std::string name_;
  std::shared_ptr<const Statements> body_;
};

}  // namespace linnet::formats::jinja
