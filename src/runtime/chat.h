// Conversation: turns of a chat over one state slot. What was said is in the state; a turn appends only its new tokens.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "formats/chat_template.h"
#include "formats/tokenizer.h"
#include "runtime/generator.h"

namespace linnet::runtime {

struct Reply {
  GenerateResult result;
  // Why the whole conversation had to be read once more, because its template changes what was said before; "" = it was not.
  std::string read_anew;
};

class Conversation {
 public:
  // Everything given must outlive the conversation. `system` may be empty: then there is no such message.
  Conversation(Engine& engine, const formats::Tokenizer& tokenizer, const formats::ChatTemplate& chat_template,
               std::string system);

  // Appends the user's message and draws the reply. A reply that was cancelled, or cut by the token limit, stands as far as it
  // came. Each turn draws with its own random numbers of options.sampling.seed. Throws what generate() and the template throw; then
  // nothing has changed, unless the state itself was damaged: the conversation is then as new.
  Reply reply(const std::string& user, const GenerateOptions& options, const TextSink& sink,
              const Progress& prefill_progress = nullptr);

  void reset();  // as new

  // The state, the messages and the tokens behind it, in one file; a conversation with the same model goes on from it with the same
  // log-probabilities. save throws IoError; load FormatError, IoError, and then leaves the conversation as it was.
  void save(const std::filesystem::path& file) const;
  void load(const std::filesystem::path& file);

  // Replies as they stand in the state, with the names of control tokens.
  const std::vector<formats::ChatMessage>& messages() const { return messages_; }
  int64_t n_tokens() const { return static_cast<int64_t>(tokens_.size() + pending_.size()); }

 private:
  Engine& engine_;
  const formats::Tokenizer& tokenizer_;
  const formats::ChatTemplate& template_;
  std::string system_;
  std::unique_ptr<StateSlot> slot_;
  std::vector<formats::ChatMessage> messages_;
  std::vector<int32_t> tokens_;   // in the state
  std::vector<int32_t> pending_;  // said, but not yet in the state: they go before the next turn
};

}  // namespace linnet::runtime
