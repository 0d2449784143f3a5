// Conversations: a turn reads its own tokens only, what is said equals what reading everything anew gives, and files go on alike.
#include "runtime/chat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/errors.h"
#include "formats/file_test_support.h"
#include "model/synth.h"

namespace linnet::runtime {
namespace {

using formats::ChatTemplate;
using formats::error_of;
using formats::ScratchFolder;

struct Chat : testing::Test {
  ScratchFolder folder;
  std::string dir = folder / "model";
  std::optional<formats::Tokenizer> tokenizer;
  std::optional<ChatTemplate> kimi;
  std::unique_ptr<Engine> engine;
  GenerateOptions greedy{.sampling = {.temperature = 0}, .max_tokens = 12};

  void SetUp() override {
    model::ModelConfig config = model::read_config(std::string(LINNET_SOURCE_DIR) + "/examples/configs/tiny.json");
    config.dtype = DType::f32;
    config.initializer_range = 0.1f;  // logits far enough apart that no sum's order decides a greedy choice
    ThreadPool pool(2);
    model::write_synthetic_checkpoint(dir, config, {.seed = 3}, pool, nullptr);
    tokenizer = formats::Tokenizer::load(dir);
    kimi = ChatTemplate::kimi(*tokenizer);
    engine = std::make_unique<Engine>(dir, EngineOptions{.threads = 1});
    for (int32_t id = tokenizer->specials().first(); id < engine->config().vocab_size; ++id)
      greedy.sampling.logit_bias.push_back({id, -INFINITY});  // replies are plain text
  }
  Conversation conversation(const std::string& system = "") { return {*engine, *tokenizer, *kimi, system}; }
};

TEST_F(Chat, a_turn_reads_only_its_own_tokens_and_answers_as_if_all_were_read) {
  Conversation chat = conversation("be brief");
  const Reply first = chat.reply("hello there", greedy, nullptr);
  const Reply second = chat.reply("and now?", greedy, nullptr);
  EXPECT_EQ(second.read_anew, "");

  // The same, read from the beginning: prompt, reply, end of the reply, next message.
  std::vector<int32_t> all =
      kimi->encode(std::vector<formats::ChatMessage>{{"system", "be brief"}, {"user", "hello there"}});
  EXPECT_EQ(first.result.prompt_tokens, static_cast<int64_t>(all.size()));
  all.insert(all.end(), first.result.tokens.begin(), first.result.tokens.end());
  const std::vector<int32_t> turn = tokenizer->encode(
      "<|im_end|><|im_user|>user<|im_middle|>and now?<|im_end|><|im_assistant|>assistant<|im_middle|>",
      formats::SpecialPolicy::parse);
  all.insert(all.end(), turn.begin(), turn.end());
  EXPECT_EQ(second.result.prompt_tokens, static_cast<int64_t>(turn.size()) + 1);  // and the reply's last token
  StateSlot slot = engine->new_slot();
  EXPECT_EQ(generate(*engine, slot, *tokenizer, {}, all, greedy, nullptr).tokens, second.result.tokens);
  EXPECT_EQ(chat.n_tokens(), static_cast<int64_t>(all.size() + second.result.tokens.size()));
  EXPECT_EQ(chat.messages().size(), 5u);
}

TEST_F(Chat, the_template_writes_the_end_of_a_reply_once) {
  const int32_t end = *tokenizer->special_id("<|im_end|>");
  GenerateOptions ending = greedy;
  ending.sampling.logit_bias = {{end, 1000.f}};
  ending.end_ids = {end};
  Conversation chat = conversation();
  const Reply first = chat.reply("hello", ending, nullptr);
  EXPECT_EQ(first.result.finish, Finish::end_token);
  EXPECT_EQ(chat.messages().back().content, "");
  const Reply second = chat.reply("more", ending, nullptr);
  EXPECT_EQ(second.read_anew, "");
  const std::string turn = "<|im_end|><|im_user|>user<|im_middle|>more<|im_end|><|im_assistant|>assistant<|im_middle|>";
  EXPECT_EQ(second.result.prompt_tokens,
            static_cast<int64_t>(tokenizer->encode(turn, formats::SpecialPolicy::parse).size()));
}

TEST_F(Chat, a_loaded_conversation_goes_on_as_the_saved_one) {
  Conversation chat = conversation();
  GenerateOptions drawn = greedy;
  drawn.sampling.temperature = 1, drawn.sampling.seed = 9, drawn.sampling.frequency_penalty = 0.5f;
  chat.reply("hello", drawn, nullptr);
  chat.save(folder / "chat.state");
  const std::vector<int32_t> expected = chat.reply("go on", drawn, nullptr).result.tokens;

  Conversation other = conversation("of another kind");
  other.reply("something else", drawn, nullptr);
  other.load(folder / "chat.state");
  EXPECT_EQ(other.messages().size(), 2u);
  EXPECT_EQ(other.reply("go on", drawn, nullptr).result.tokens, expected);
  chat.load(folder / "chat.state");
  EXPECT_EQ(chat.reply("go on", drawn, nullptr).result.tokens, expected);
}

TEST_F(Chat, reset_begins_anew) {
  Conversation chat = conversation("system");
  const std::vector<int32_t> expected = chat.reply("hello", greedy, nullptr).result.tokens;
  chat.reply("more", greedy, nullptr);
  chat.reset();
  EXPECT_EQ(chat.messages().size(), 1u);
  EXPECT_EQ(chat.n_tokens(), 0);
  EXPECT_EQ(chat.reply("hello", greedy, nullptr).result.tokens, expected);
}

TEST_F(Chat, a_cancelled_prompt_or_reply_is_continued_not_repeated) {
  engine = std::make_unique<Engine>(dir, EngineOptions{.threads = 1, .tokens_per_pass = 64});
  const std::string longer(300, 'x');
  Conversation whole = conversation();
  whole.reply(longer, {.sampling = greedy.sampling, .max_tokens = 0}, nullptr);
  const std::vector<int32_t> expected = whole.reply("and?", greedy, nullptr).result.tokens;

  Conversation chat = conversation();
  int passes = 0;
  const Reply stopped = chat.reply(longer, greedy, nullptr, [&](int64_t, int64_t) { return ++passes < 2; });
  EXPECT_EQ(stopped.result.finish, Finish::cancelled);
  EXPECT_TRUE(stopped.result.tokens.empty());
  EXPECT_EQ(chat.reply("and?", greedy, nullptr).result.tokens, expected);

  int tokens = 0;
  const Reply cut = chat.reply("again", greedy, [&](std::string_view) { return ++tokens < 3; });
  EXPECT_EQ(cut.result.finish, Finish::cancelled);
  EXPECT_EQ(cut.result.tokens.size(), 3u);
  EXPECT_EQ(chat.reply("and?", greedy, nullptr).read_anew, "");
}

TEST_F(Chat, what_does_not_fit_changes_nothing) {
  engine = std::make_unique<Engine>(dir, EngineOptions{.threads = 1, .context = 150});
  Conversation chat = conversation();
  chat.reply("hello", greedy, nullptr);
  chat.save(folder / "before");
  const auto n_tokens = chat.n_tokens();
  EXPECT_THAT(error_of<InvalidArgument>([&] { chat.reply(std::string(500, 'x'), greedy, nullptr); }),
              testing::HasSubstr("the context is 150"));
  EXPECT_EQ(chat.n_tokens(), n_tokens);
  EXPECT_EQ(chat.messages().size(), 2u);
  chat.save(folder / "after");
  EXPECT_EQ(formats::contents(folder / "before"), formats::contents(folder / "after"));
}

TEST_F(Chat, a_template_that_rewrites_replies_is_read_anew_and_says_so) {
  const ChatTemplate shouting(
      formats::jinja::Template::parse("shouting", "{% for m in messages %}{{ m.content|upper }}<|im_end|>{% endfor %}"),
      *tokenizer);
  Conversation chat(*engine, *tokenizer, shouting, "");
  chat.reply("hello", greedy, nullptr);
  const Reply second = chat.reply("more", greedy, nullptr);
  EXPECT_NE(second.read_anew, "");
  EXPECT_EQ(
      second.result.prompt_tokens,
      static_cast<int64_t>(shouting.encode(std::vector(chat.messages().begin(), chat.messages().begin() + 3)).size()));
}

TEST_F(Chat, foreign_files_are_refused_and_change_nothing) {
  Conversation chat = conversation();
  chat.reply("hello", greedy, nullptr);
  engine->new_slot().export_to(folder / "bare", {});
  EXPECT_THAT(error_of<FormatError>([&] { chat.load(folder / "bare"); }), testing::HasSubstr("a saved chat"));
  engine->new_slot().export_to(folder / "lies", {{"linnet.chat", R"({"messages":[],"tokens":[1],"pending":[]})"}});
  EXPECT_THAT(error_of<FormatError>([&] { chat.load(folder / "lies"); }), testing::HasSubstr("tokens"));
  engine->new_slot().export_to(folder / "junk", {{"linnet.chat", "{"}});
  EXPECT_THAT(error_of<FormatError>([&] { chat.load(folder / "junk"); }), testing::HasSubstr("linnet.chat"));
  EXPECT_EQ(chat.messages().size(), 2u);
  Conversation same = conversation();
  same.reply("hello", greedy, nullptr);
  EXPECT_EQ(chat.reply("x", greedy, nullptr).result.tokens, same.reply("x", greedy, nullptr).result.tokens);
}

}  // namespace
}  // namespace linnet::runtime
