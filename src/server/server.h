// Server: one model for many clients, over HTTP in the shape of OpenAI's API. docs/serving.md has what it answers.
#pragma once

#include <chrono>
#include <memory>

#include "server/service.h"

namespace linnet::server {

class Server {
 public:
  // Listens from here on. The engine is the server's alone while it lives; everything given must outlive it. `log` gets one line of
  // JSON for each request. Throws what HttpServer and Scheduler throw.
  Server(runtime::Engine& engine, const formats::Tokenizer& tokenizer, const formats::ChatTemplate& chat_template,
         ServerOptions options, Log log);
  ~Server();  // stops at once

  int port() const;

  // No new connections; requests that have begun end as they would, those that have not by `until` with an error. Returns then.
  void stop(std::chrono::steady_clock::time_point until);

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace linnet::server
