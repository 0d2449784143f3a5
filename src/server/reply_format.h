// ReplyFormat: what was generated, in the shape in which clients of OpenAI's API read it.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer.h"
#include "runtime/scheduler.h"
#include "runtime/tool_calls.h"
#include "server/generation_request.h"

namespace linnet::server {

struct ReplyHead {
  std::string id;  // "chatcmpl-..."
  int64_t created = 0;
  std::string model;
};

// A part of one choice.
struct Piece {
  int64_t index = 0;
  std::string_view text;
  std::span<const runtime::ToolCallDelta> calls;
  std::span<const runtime::ScoredToken> tokens;  // behind the text; with scores where they were asked for
  std::string_view finish;                       // why it ended; "" = it goes on
  bool first = false;                            // of its choice
};

// All of one choice.
struct Choice {
  std::string text;
  std::vector<runtime::ToolCallDelta> calls;  // whole
  std::vector<runtime::ScoredToken> tokens;
  std::string finish;
};

// OpenAI's word. Not for what was cancelled or timed out: those are errors.
std::string_view finish_word(runtime::Finish finish);

class ReplyFormat {
 public:
  // Both must outlive it.
  static std::unique_ptr<ReplyFormat> make(const GenerationRequest& request, const formats::Tokenizer& tokenizer,
                                           ReplyHead head);
  ReplyFormat(const GenerationRequest& request, const formats::Tokenizer& tokenizer, ReplyHead head)
      : request_(request), tokenizer_(tokenizer), head_(std::move(head)) {}
  virtual ~ReplyFormat() = default;

  // JSON texts. piece: of a stream, the pieces of a choice in order; usage_piece: the last of a stream, where it was asked for.
  virtual std::string piece(const Piece& piece) = 0;
  virtual std::string whole(std::span<const Choice> choices, const runtime::Usage& usage) = 0;
  std::string usage_piece(const runtime::Usage& usage) const;

 protected:
  virtual const char* piece_kind() const = 0;

  const GenerationRequest& request_;
  const formats::Tokenizer& tokenizer_;
  ReplyHead head_;
};

}  // namespace linnet::server
