// GenerationRequest: what a client asked, against this server's model: tokens, limits, grammar.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "formats/chat_template.h"
#include "formats/model_card.h"
#include "formats/tokenizer.h"
#include "runtime/constraint/constraint.h"
#include "runtime/generator.h"
#include "runtime/tool_calls.h"
#include "server/field_table.h"
#include "server/request_fields.h"

namespace linnet::server {

// What requests are read against. Threads share it.
struct ModelFacts {
  std::string name;         // of /v1/models
  formats::ModelCard card;  // what it says of itself there
  int64_t created = 0;      // Unix time at which it was loaded
  int64_t vocab_size = 0, context = 0;
  runtime::GenerateOptions defaults;  // as the checkpoint suggests, with its end ids
  int64_t reply_tokens = 2048;        // of a chat request that sets no limit
  int64_t max_choices = kMaxChoices;  // of one request: those of a prompt are drawn together
  const formats::Tokenizer* tokenizer = nullptr;
  const formats::ChatTemplate* chat_template = nullptr;
};

// Grammars that requests bring, compiled once: the last few are kept.
class ConstraintCache {
 public:
  ConstraintCache(const formats::Tokenizer& tokenizer, int64_t vocab_size, std::vector<int32_t> end_ids);
  // A copy of its own for the caller. Throws FormatError, Unsupported with the place in the schema.
  runtime::Constraint get(ResponseFormat format, const std::string& schema);
  runtime::Constraint tools(const std::string& tools, const std::string& choice, bool parallel);  // JSON

 private:
  template <class Make>
  runtime::Constraint kept(const std::string& key, Make make);

  static constexpr size_t kKept = 8;
  std::mutex mutex_;
  std::shared_ptr<const runtime::TokenTrie> trie_;  // made when it is first needed
  const formats::Tokenizer& tokenizer_;
  int64_t vocab_size_;
  std::vector<int32_t> end_ids_;
  std::vector<std::pair<std::string, runtime::Constraint>> kept_;  // the latest last
};

struct GenerationRequest {
  Endpoint endpoint;
  std::vector<std::vector<int32_t>> prompts;
  runtime::GenerateOptions options;  // of all
  int64_t n = 1, top_logprobs = -1;
  bool echo = false, score_prompts = false;
  bool stream = false, include_usage = false;
  bool tools = false;  // replies may hold tool calls
  std::vector<std::string> unknown;
};

// Throw ApiError, and what the template, the tokenizer and the grammar throw.
GenerationRequest resolve(const ChatFields& fields, const ModelFacts& model, ConstraintCache& constraints);
GenerationRequest resolve(const CompletionFields& fields, const ModelFacts& model, ConstraintCache& constraints);

// The conversation as tokens, by the model's template. Throws ApiError for what the template refuses.
std::vector<int32_t> encode_chat(const ChatFields& fields, const ModelFacts& model, bool add_generation_prompt);

// 404 unless it is the name of this model, or none.
void check_model(const std::optional<std::string>& name, const ModelFacts& model);

}  // namespace linnet::server
