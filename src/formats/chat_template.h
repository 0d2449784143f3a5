// ChatTemplate: a conversation to token ids, in the layout that the checkpoint was trained on.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/jinja.h"
#include "formats/tokenizer.h"

namespace linnet::formats {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", "tool", ...
  std::string content;
  std::string more =
      {};  // a JSON object with further members as chat APIs have them (name, tool_calls, tool_call_id, a content
           // in parts, ...); its "content" goes before the one above. "" = none
};

struct ChatOptions {
  bool add_generation_prompt = true;  // end with the beginning of the assistant's turn
  std::string tools_json = {};        // a JSON array; "" = none
  std::string variables_json =
      {};  // a JSON object of further variables of the template (enable_thinking, ...); "" = none
};

// The text of a conversation, and where in it the template itself wrote: there, and only there, the name of a special token is
// that token. What came in through a message or a tool stays text, whatever it contains.
struct RenderedChat {
  std::string text;
  std::vector<ByteRange> control;  // ascending, disjoint, not adjacent
};

// Ids that continue a conversation without reading it again, or why there are none.
struct ChatContinuation {
  std::vector<TokenId> ids;
  std::string refusal;  // "" = ids are good
  explicit operator bool() const { return refusal.empty(); }
};

// Threads may share one.
class ChatTemplate {
 public:
  // chat_template.jinja in dir; else "chat_template" in tokenizer_config.json there (one template, or a list of named ones of
  // which "tool_use" serves conversations with tools and "default" the others); else kimi(). Throws IoError, FormatError. The
  // tokenizer must outlive the template.
  static ChatTemplate load(const std::filesystem::path& dir, const Tokenizer& tokenizer);
  static ChatTemplate kimi(const Tokenizer& tokenizer);  // the layout of the Kimi K2 family
  ChatTemplate(jinja::Template source, const Tokenizer& tokenizer);

  const std::string& name() const { return plain_.name(); }  // the file, or "built-in kimi"

  // Variables of the template: messages, tools (or none), documents (none), add_generation_prompt, bos_token, eos_token,
  // pad_token, unk_token, and those of the options. There is no strftime_now: what is rendered does not depend on the clock.
  // Throws InvalidArgument for bad JSON and for what the template refuses, FormatError for what the template cannot do.
  RenderedChat render(std::span<const ChatMessage> messages, const ChatOptions& options = {}) const;
  std::vector<TokenId> encode(std::span<const ChatMessage> messages, const ChatOptions& options = {}) const;

  // For a state that holds encode(messages[0 .. n_before)) with the generation prompt, then the tokens of the reply without an
  // end token: the ids of the rest of the reply's turn and of all that follows. messages[n_before] is the reply; reply_text is
  // its text as generated (special tokens shown). It is refused, and the conversation has to be read anew, where the template
  // writes what the state holds differently once more messages follow (it trims replies, drops earlier thoughts, ...), or
  // where the reply does not end at a special token, so that its last tokens could be others.
  ChatContinuation continuation(std::span<const ChatMessage> messages, size_t n_before, std::string_view reply_text,
                                const ChatOptions& options = {}) const;

 private:
  jinja::Text render_text(std::span<const ChatMessage> messages, const ChatOptions& options) const;

  jinja::Template plain_;
  std::optional<jinja::Template> with_tools_;
  const Tokenizer* tokenizer_;
};

}  // namespace linnet::formats
