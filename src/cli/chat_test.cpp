// linnet chat through a pipe: lines in, replies out, commands.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/cli_test_support.h"

namespace linnet::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

// Replies of letters only: every byte but a..z and every special token is forbidden by a bias on the letters instead.
Outcome chat(const std::string& input, std::vector<std::string> more = {}) {
  std::vector<std::string> args = {"chat", "--model", tiny_checkpoint(), "-n", "10", "--greedy", "-t", "1"};
  for (int id = 300; id < 700; ++id) args.insert(args.end(), {"--logit-bias", std::to_string(id) + "=5"});
  args.insert(args.end(), more.begin(), more.end());
  return linnet(args, {.input = input});
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

TEST(chat, a_line_is_a_message_and_a_reply_is_a_line) {
  const Outcome outcome = chat("hello\nhow are you\n\nfine");
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.err, "");
  EXPECT_EQ(lines_of(outcome.out).size(), 3u);  // the empty line says nothing; the last one needs no line end
}

TEST(chat, first_reply_is_what_generate_gives_for_the_layout) {
  std::vector<std::string> args = {
      "generate",
      "--model",
      tiny_checkpoint(),
      "-n",
      "10",
      "--greedy",
      "-t",
      "1",
      "-q",
      "--parse-specials",
      "-p",
      "<|im_system|>system<|im_middle|>be "
      "brief<|im_end|><|im_user|>user<|im_middle|>hello<|im_end|><|im_assistant|>assistant<|im_middle|>"};
  for (int id = 300; id < 700; ++id) args.insert(args.end(), {"--logit-bias", std::to_string(id) + "=5"});
  EXPECT_EQ(chat("hello\n", {"--system", "be brief"}).out, linnet(args).out + "\n");
}

// The model that comes with the program: a heading makes a poem that ends by itself, and the next heading is all that is read then.
TEST(chat, default_model_writes_a_poem_for_each_heading) {
  const Outcome outcome =
      linnet({"chat", "--greedy", "-n", "400", "-t", "1", "--timing"},
             {.input = "《秋夜》李白\n《山中》王維\n", .environment = "LINNET_MODEL=" + source_path("models/default")});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("。\n"));
  EXPECT_GE(lines_of(outcome.out).size(), 4u);
  const std::vector<std::string> timing = lines_of(outcome.err);
  ASSERT_EQ(timing.size(), 2u) << outcome.err;
  for (const std::string& line : timing) {
    EXPECT_THAT(line, HasSubstr("end token"));
    EXPECT_LT(std::stoi(line.substr(line.find(' '))), 12) << line;  // "prompt N tokens"
  }
}

TEST(chat, later_turns_read_only_themselves) {
  const Outcome outcome = chat(std::string(600, 'x') + "\nyes\nyes\n", {"--timing"});
  const std::vector<std::string> timing = lines_of(outcome.err);
  ASSERT_EQ(timing.size(), 3u);
  // end of the reply (its last token, im_end), user turn (9 tokens of the role, im_middle, text, im_end), assistant's beginning
  EXPECT_THAT(timing[0], Not(HasSubstr("prompt 1")));
  EXPECT_EQ(timing[1].substr(0, timing[1].find(" tokens")), timing[2].substr(0, timing[2].find(" tokens")));
}

TEST(chat, save_and_load_go_on_with_the_same_reply) {
  const formats::ScratchFolder folder;
  const std::string file = folder / "state";
  const Outcome first = chat("hello\n/save " + file + "\nand then?\n");
  EXPECT_THAT(first.err, HasSubstr("saved"));
  const Outcome second = chat("something else\n/load " + file + "\nand then?\n");
  EXPECT_THAT(second.err, HasSubstr("loaded"));
  EXPECT_EQ(lines_of(first.out).at(1), lines_of(second.out).at(1));
  EXPECT_EQ(folder.n_files(), 1u);
}

TEST(chat, commands) {
  const Outcome reset = chat("hello\nmore\n/reset \nhello\n \n/quit \nnot read\n");
  const std::vector<std::string> replies = lines_of(reset.out);
  ASSERT_EQ(replies.size(), 3u);
  EXPECT_EQ(replies[0], replies[2]);
  EXPECT_THAT(chat("/help\n").err,
              testing::AllOf(HasSubstr("/save FILE"), HasSubstr("/load FILE"), HasSubstr("/reset")));
  const Outcome unknown = chat("/unknown command\n");
  EXPECT_EQ(unknown.out, "");
  EXPECT_THAT(unknown.err, HasSubstr("no command /unknown command"));
  EXPECT_EQ(lines_of(chat("//unknown command\n").out).size(), 1u);  // a message that begins with a slash
}

TEST(chat, a_command_that_fails_is_said_and_the_conversation_goes_on) {
  const formats::ScratchFolder folder;
  const std::string file = folder.write("text", "not a state");
  const Outcome outcome = chat("hello\n/load " + file + "\nmore\n");
  EXPECT_EQ(outcome.status, 3);
  EXPECT_THAT(outcome.err, HasSubstr("linnet: " + file + ": "));
  EXPECT_EQ(lines_of(outcome.out).at(1), lines_of(chat("hello\nmore\n").out).at(1));
  const Outcome unwritable = chat("hello\n/save /nowhere/state\n");
  EXPECT_EQ(unwritable.status, 3);
  EXPECT_THAT(unwritable.err, HasSubstr("linnet: /nowhere/state: "));
  const Outcome nameless = chat("/save\n");
  EXPECT_EQ(nameless.status, 2);
  EXPECT_THAT(nameless.err, HasSubstr("/save: expected the name of a file"));
  const Outcome long_message = chat("hello\n" + std::string(20000, 'x') + "\nmore\n");
  EXPECT_EQ(long_message.status, 2);
  EXPECT_THAT(long_message.err, HasSubstr("the context is 4096"));
  EXPECT_EQ(lines_of(long_message.out).size(), 2u);
}

TEST(chat, interrupt_stops_the_reply_not_the_conversation) {
  bool sent = false;
  RunOptions options{.input = "hello\nmore\n"};
  options.on_output = [&](pid_t child, const std::string&) {
    if (!sent) kill(child, SIGINT);
    sent = true;
  };
  const Outcome outcome = linnet(
      {"chat", "--model", tiny_checkpoint(), "--greedy", "--ignore-eos", "-n", "1500", "--timing", "-t", "1"}, options);
  EXPECT_EQ(outcome.status, 0);
  EXPECT_THAT(outcome.err, HasSubstr("token limit"));  // the second reply came to its end
}

}  // namespace
}  // namespace linnet::cli
