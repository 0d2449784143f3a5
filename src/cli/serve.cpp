#include "cli/serve.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>

#include "cli/output.h"
#include "cli/sampling_args.h"
#include "core/errors.h"
#include "core/text.h"
#include "formats/posix_file.h"
#include "server/server.h"

namespace linnet::cli {
namespace {

int g_signalled = -1;  // our end of a pipe

// The first SIGINT or SIGTERM is a request, told through a pipe; the second of either kind ends the process as by default.
class StopSignal {
 public:
  StopSignal() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) formats::throw_io_error("pipe", "cannot create", errno);
    out_ = formats::FileDescriptor(ends[0]);
    in_ = formats::FileDescriptor(ends[1]);
    g_signalled = in_.get();
    struct sigaction action {};
    action.sa_handler = [](int) {
      signal(SIGINT, SIG_DFL);
      signal(SIGTERM, SIG_DFL);
      [[maybe_unused]] const ssize_t n = write(g_signalled, "", 1);
    };
    action.sa_flags = SA_RESTART;
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
  }
  ~StopSignal() {
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
  }
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  void wait() const {
    char byte;
    while (read(out_.get(), &byte, 1) < 0 && errno == EINTR) {}
  }

 private:
  formats::FileDescriptor out_, in_;
};

std::chrono::milliseconds duration(const char* option, double seconds) {
  if (!(seconds >= 0 && seconds <= 1e7))
    throw InvalidArgument(cat(option, ": expected seconds in [0, 1e7], got ", seconds));
  return std::chrono::milliseconds(static_cast<int64_t>(std::ceil(seconds * 1000)));
}

size_t bytes(const char* option, double mib, double least) {
  if (!(mib >= least && mib <= 1e9))
    throw InvalidArgument(cat(option, ": expected MiB in [", least, ", 1e9], got ", mib));
  return static_cast<size_t>(mib * (1 << 20));
}

void require(bool ok, const char* option, const char* expected, int64_t got) {
  if (!ok) throw InvalidArgument(cat(option, ": expected ", expected, ", got ", got));
}

server::AccessRules access_rules(const ServeArgs& args) {
  server::AccessRules rules{.local_names_only = server::is_loopback(args.host), .cors_origins = args.cors};
  if (args.api_key_file) rules.keys = server::read_keys(args.api_key_file->string());
  if (const char* key = std::getenv("LINNET_API_KEY"); key && *key) rules.keys.emplace_back(key);
  if (rules.keys.empty() && !rules.local_names_only && !args.no_api_key)
    throw InvalidArgument(cat("--host ", args.host,
                              ": other machines could use this server: give it a key (--api-key-file, LINNET_API_KEY), "
                              "or let everybody in with --no-api-key"));
  return rules;
}

server::ServerOptions server_options(const ServeArgs& args) {
  require(args.port >= 0 && args.port <= 65535, "--port", "a number in [0, 65535]", args.port);
  require(args.max_streams >= 1 && args.max_streams <= 4096, "--max-streams", "a number in [1, 4096]",
          args.max_streams);
  require(args.max_queue >= 0 && args.max_queue <= 65536, "--queue", "a number in [0, 65536]", args.max_queue);
  require(args.reply_tokens >= -1, "--reply-tokens", "-1 (no limit) or more", args.reply_tokens);
  require(args.max_connections >= 1, "--max-connections", "1 or more", args.max_connections);
  server::ServerOptions options;
  options.http.host = args.host;
  options.http.port = args.port;
  options.http.limits.max_body_bytes = bytes("--max-body", args.max_body_mib, 0.001);
  options.http.max_buffered_bytes = std::max(options.http.max_buffered_bytes, 4 * options.http.limits.max_body_bytes);
  options.http.max_connections = static_cast<size_t>(args.max_connections);
  options.access = access_rules(args);
  options.scheduler = {.max_streams = args.max_streams,
                       .max_queue = args.max_queue,
                       .state_bytes = bytes("--state-memory", args.state_memory_mib, 0),
                       .prefix_cache = !args.no_prefix_cache,
                       .invariant = !args.no_batch_invariance};
  options.reply_tokens = args.reply_tokens;
  options.sessions = args.sessions;
  if (args.sessions && args.no_prefix_cache)
    throw InvalidArgument("--sessions: expected a prefix cache; --no-prefix-cache turns it off");
  options.request_timeout = duration("--request-timeout", args.request_timeout);
  options.model_name = args.model_name;
  if (options.model_name.empty()) {
    std::filesystem::path dir = std::filesystem::weakly_canonical(args.engine.model);
    options.model_name = (dir.has_filename() ? dir : dir.parent_path()).filename().string();
  }
  return options;
}

// Says at once, and not when a large model has been loaded, that the port is taken.
void try_to_listen(const server::HttpOptions& options) { server::HttpServer(options, nullptr, nullptr); }

// One prompt and one step, for nobody: weights and scratch memory are then where the first client's request needs them.
void warm_up(runtime::Engine& engine) {
  const std::vector<int32_t> prompt(static_cast<size_t>(std::min<int64_t>(64, engine.context() - 1)), 0);
  runtime::StateSlot slot = engine.new_slot();
  const auto ignore = [](size_t, int64_t, Tensor) {};
  for (const bool read : {true, false}) {
    const std::span<const int32_t> tokens = std::span(prompt).first(read ? prompt.size() : 1);
    const runtime::Append pass{
        .slot = &slot, .tokens = tokens, .step = read ? model::Step::prefill : model::Step::decode};
    engine.append({&pass, 1}, ignore);
  }
}

}  // namespace

int run_serve(const ServeArgs& args) {
  server::ServerOptions options = server_options(args);
  const auto drain = duration("--drain-timeout", args.drain_timeout);
  if (options.http.port != 0) try_to_listen(options.http);
  const formats::Tokenizer tokenizer = formats::Tokenizer::load(args.engine.model);
  const auto chat_template = formats::ChatTemplate::load(args.engine.model, tokenizer);
  const auto engine = open_engine(args.engine);
  options.card = formats::ModelCard::load(args.engine.model);
  options.defaults = generate_options({}, args.engine.model, engine->config(), tokenizer);
  warm_up(*engine);

  signal(SIGXFSZ, SIG_IGN);  // a write beyond the limit on files then fails, as on a full disk
  const StopSignal stop;
  const std::string model_name = options.model_name;
  server::Server server(*engine, tokenizer, chat_template, std::move(options), [&](std::string_view line) {
    if (!args.quiet) note(line);
  });
  const bool six = args.host.find(':') != std::string::npos;
  print(
      cat("serving ", model_name, " at http://", six ? "[" : "", args.host, six ? "]" : "", ":", server.port(), "\n"));
  stop.wait();
  note("linnet: stopping; again to stop at once");
  server.stop(std::chrono::steady_clock::now() + drain);
  return 0;
}

}  // namespace linnet::cli
