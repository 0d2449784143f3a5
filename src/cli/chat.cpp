#include "cli/chat.h"

#include "cli/input.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "core/errors.h"
#include "core/text.h"
#include "formats/chat_template.h"
#include "runtime/chat.h"

namespace linnet::cli {
namespace {

constexpr const char* kHelp =
    "/save FILE   keep the conversation: its state, messages and tokens\n"
    "/load FILE   go on with a kept conversation\n"
    "/reset       begin anew\n"
    "/help        this list\n"
    "/quit        end; so does Ctrl-D\n"
    "Ctrl-C stops a reply. Any other line is a message; one that begins with a slash is written with two.";

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\r");
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(" \t\r") + 1 - first);
}

class Chat {
 public:
  Chat(const ChatArgs& args, runtime::Conversation& conversation, runtime::GenerateOptions options)
      : args_(args), conversation_(conversation), options_(std::move(options)) {}

  int run() {
    const bool prompting = stdin_is_terminal();
    if (prompting) note("/help lists the commands");
    for (;;) {
      if (prompting) print_error("> ");
      const Line line = lines_.next();
      if (line.interrupted) {
        interrupt_.clear();
        note("\n(/quit or Ctrl-D ends)");
        continue;
      }
      if (!line.text || trimmed(*line.text) == "/quit") {
        if (prompting && !line.text) note("");
        return status_;
      }
      try {
        obey(*line.text);
      } catch (const Error& e) {  // said, and the conversation goes on
        note(cat("linnet: ", e.what()));
        status_ = exit_status(e);
      }
    }
  }

 private:
  void obey(const std::string& line) {
    const size_t space = std::min(line.find(' '), line.size());
    const std::string command = line.substr(0, space), rest = trimmed(line.substr(space));
    if (command == "/help") note(kHelp);
    else if (command == "/reset") conversation_.reset();
    else if (command == "/save") save(rest);
    else if (command == "/load") load(rest);
    else if (line.starts_with("//")) answer(line.substr(1));
    else if (line.starts_with("/")) note(cat("no command ", printable(line, 40), "; /help lists the commands"));
    else if (!trimmed(line).empty()) answer(line);
  }

  void save(const std::string& file) {
    if (file.empty()) throw InvalidArgument("/save: expected the name of a file");
    conversation_.save(file);
    note(cat("saved ", conversation_.n_tokens(), " tokens in ", file));
  }
  void load(const std::string& file) {
    if (file.empty()) throw InvalidArgument("/load: expected the name of a file");
    conversation_.load(file);
    note(cat("loaded ", conversation_.n_tokens(), " tokens from ", file));
  }

  void answer(const std::string& message) {
    interrupt_.clear();
    ProgressLine progress("prompt", "tokens");
    const runtime::Reply reply = conversation_.reply(
        message, options_,
        [&](std::string_view text) {
          progress.erase();
          print(text);
          return !interrupt_.raised();
        },
        [&](int64_t done, int64_t total) {
          progress.update(done, total);
          return !interrupt_.raised();
        });
    progress.erase();
    print("\n");
    interrupt_.clear();
    if (!reply.read_anew.empty()) note(cat("(read the whole conversation anew: ", reply.read_anew, ")"));
    if (args_.timing) note(timing_line(reply.result, options_.sampling));
  }

  const ChatArgs& args_;
  runtime::Conversation& conversation_;
  runtime::GenerateOptions options_;
  LineReader lines_;
  Interrupt interrupt_{/*once=*/false};
  int status_ = 0;
};

}  // namespace

int run_chat(const ChatArgs& args) {
  const formats::Tokenizer tokenizer = formats::Tokenizer::load(args.engine.model);
  const auto chat_template = formats::ChatTemplate::load(args.engine.model, tokenizer);
  const auto engine = open_engine(args.engine);
  runtime::GenerateOptions options = generate_options(args.sampling, args.engine.model, engine->config(), tokenizer);
  runtime::Conversation conversation(*engine, tokenizer, chat_template, args.system);
  return Chat(args, conversation, std::move(options)).run();
}

}  // namespace linnet::cli
