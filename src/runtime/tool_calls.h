// Tool calls in the form of the Kimi K2 family: the grammar that a reply follows, and the reply read as it comes.
//
//   reply   text [ SECTION_BEGIN call... SECTION_END ]
//   call    CALL_BEGIN "functions." name ":" index ARGUMENT_BEGIN arguments CALL_END
//
// The words in capitals are special tokens; in the text that a Continuation gives they are the bytes below, which no UTF-8 holds: a reply
// that spells their names is text.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/constraint/constraint.h"

namespace linnet::runtime {

struct Tool {
  std::string name;
  std::string parameters;  // a JSON schema; "" = any object
  bool strict = false;     // refuse a schema that cannot be guaranteed; else its arguments are then any object
};

// Reads the list of an OpenAI request. Throws FormatError naming the place.
std::vector<Tool> parse_tools(std::string_view json);

enum class ToolUse : uint8_t { none, optional, required };
struct ToolChoice {
  ToolUse use = ToolUse::optional;
  std::string name;  // required: this one; "" = any
};
// "none", "auto", "required" (with the quotes), an object that names a function; "" = auto. Throws FormatError.
ToolChoice parse_tool_choice(std::string_view json, const std::vector<Tool>& tools);

enum ToolMark : uint8_t {
  kSectionBegin = Grammar::kFirstTerminal,
  kSectionEnd,
  kCallBegin,
  kArgumentBegin,
  kCallEnd,
};

// What a reply may be. `parallel`: more than one call. Throws Unsupported when the tokenizer has no tokens for calls, and what
// json_schema_grammar throws.
Constraint tool_constraint(const std::vector<Tool>& tools, const ToolChoice& choice, bool parallel,
                           const formats::Tokenizer& tokenizer, std::shared_ptr<const TokenTrie> trie,
                           std::vector<int32_t> end_ids);

struct ToolCallDelta {
  size_t index;          // of the call in the reply
  std::string id, name;  // of its first delta; empty in the others
  std::string arguments;
};

// A reply in parts, as a Continuation gives them.
class ToolCallParser {
 public:
  struct Parsed {
    std::string content;
    std::vector<ToolCallDelta> calls;
  };
  Parsed push(std::string_view text);
  size_t n_calls() const { return n_calls_; }

 private:
  void begin_call(Parsed& out);

  enum class Part : uint8_t { content, between, header, arguments } part_ = Part::content;
  std::string header_;
  std::set<std::string> ids_;
  size_t n_calls_ = 0;
};

}  // namespace linnet::runtime
