// Session store: conversations on disk, a state file each, so that they go on after the program has ended with the bits they would
// have had. A state in a file is canonical, as in the prefix cache (docs/decisions/0006): of a multiple of kCacheBlock tokens.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "formats/state_file.h"
#include "runtime/prefix_cache.h"

namespace linnet::runtime {

struct Session {
  std::vector<int32_t> tokens;  // of the whole conversation; the state holds the first of them
  std::string messages;         // the caller's, UTF-8: what the tokens came from
};

struct SessionInfo {
  std::string name;
  int64_t tokens = 0;        // of the conversation
  int64_t state_tokens = 0;  // of the state
  uint64_t bytes = 0;        // of the file
  int64_t time = 0;          // when it was saved, seconds since 1970
  std::string defect;        // why its header cannot be read; else empty
};

// Methods that take a name throw InvalidArgument unless it is 1 to 64 of A-Z a-z 0-9 . _ - and begins with none of the last three.
class SessionStore {
 public:
  explicit SessionStore(std::filesystem::path folder) : folder_(std::move(folder)) {}  // made by the first save

  // Writes the session, in place of one of that name; complete or not at all. The slot's state is of the first tokens of the session and
  // canonical, else InvalidArgument. Throws IoError (a full disk); the old session is then as it was.
  // Several threads may save at once; of one name the last to end stays.
  void save(const std::string& name, const Session& session, const StateSlot& slot) const;

  // A session as its file has it: read and checked as a whole. The state waits in the file for memory.
  struct Saved {
    Session session;
    int64_t state_tokens;
    formats::StateFile file;

    std::span<const int32_t> tokens_of_state() const {
      return std::span(session.tokens).first(static_cast<size_t>(state_tokens));
    }
  };
  // Throws InvalidArgument when there is no such session; FormatError for a file that is truncated, corrupt, or no session; IoError.
  // StateSlot::import_from takes the state, and refuses that of another model.
  Saved open(const std::string& name) const;

  bool has(const std::string& name) const;
  bool remove(const std::string& name) const;  // false: there was none. Throws IoError
  std::vector<SessionInfo> list() const;       // by name; files that are none are left out. Throws IoError

 private:
  std::filesystem::path path_of(std::string_view name) const;

  std::filesystem::path folder_;
};

}  // namespace linnet::runtime
