#include "runtime/session_store.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "core/errors.h"
#include "core/text.h"
#include "formats/posix_file.h"
#include "formats/state_file.h"

namespace linnet::runtime {
namespace {

constexpr std::string_view kSuffix = ".session";
constexpr const char* kTokens = "session.tokens";      // ids in decimal, separated by spaces
constexpr const char* kMessages = "session.messages";  // the caller's

bool valid_name(std::string_view name) {
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); };
  return !name.empty() && name.size() <= 64 && plain(name.front()) &&
         std::all_of(name.begin(), name.end(), [&](char c) { return plain(c) || c == '.' || c == '_' || c == '-'; });
}

std::string text_of_ids(const std::vector<int32_t>& ids) {
  std::string out;
  for (int32_t id : ids) out += out.empty() ? std::to_string(id) : ' ' + std::to_string(id);
  return out;
}

std::vector<int32_t> ids_of_text(const std::string& text, const std::string& place) {
  std::vector<int32_t> ids;
  for (const char *at = text.data(), *end = at + text.size(); at < end;) {
    const auto [after, error] = std::from_chars(at, end, ids.emplace_back());
    if (error != std::errc() || ids.back() < 0 || (after < end && (*after != ' ' || after + 1 == end)))
      throw FormatError(cat(place, ": header: ", kTokens, ": expected token ids, got ",
                            printable({at, static_cast<size_t>(end - at)}, 20), " after ", ids.size() - 1, " of them"));
    at = std::min(after + 1, end);
  }
  return ids;
}

template <class Notes>
const std::string& note(const Notes& notes, const char* key, const std::string& place) {
  const auto found = notes.find(key);
  if (found == notes.end())
    throw FormatError(cat(place, ": header: expected ", key, ", got no such key: not a session"));
  return found->second;
}

Session session_of(const formats::Metadata& notes, int64_t state_tokens, const std::string& place) {
  Session session{ids_of_text(note(notes, kTokens, place), place), note(notes, kMessages, place)};
  const auto n = static_cast<int64_t>(session.tokens.size());
  if (state_tokens <= 0 || state_tokens % kCacheBlock != 0 || state_tokens > n)
    throw FormatError(cat(place, ": expected a state of a multiple of ", kCacheBlock, " of the session's ", n,
                          " tokens, got one of ", state_tokens));
  return session;
}

}  // namespace

std::filesystem::path SessionStore::path_of(std::string_view name) const {
  if (!valid_name(name))
    throw InvalidArgument(
        cat("session: expected a name of 1 to 64 letters, digits, '.', '_' and '-' that begins with a ",
            "letter or a digit, got ", name.empty() ? "none" : printable(name, 80)));
  return folder_ / cat(name, kSuffix);
}

void SessionStore::save(const std::string& name, const Session& session, const StateSlot& slot) const {
  const std::filesystem::path path = path_of(name);
  const int64_t n = slot.n_tokens();
  if (n == 0 || n % kCacheBlock != 0 || slot.n_tentative() > 0 || n > static_cast<int64_t>(session.tokens.size()))
    throw InvalidArgument(cat("session ", name, ": expected a state of a multiple of ", kCacheBlock, " of its ",
                              session.tokens.size(), " tokens, got one of ", n));
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error) formats::throw_io_error(folder_, "cannot create the folder", error.value());
  slot.export_to(path, {{kTokens, text_of_ids(session.tokens)}, {kMessages, session.messages}});
}

SessionStore::Saved SessionStore::open(const std::string& name) const {
  const std::filesystem::path path = path_of(name);
  if (!has(name)) throw InvalidArgument(cat("session ", name, ": there is none of that name"));
  formats::StateFile file = formats::StateFile::read(path);
  const int64_t n_tokens = n_tokens_of(file.header(), file.place());
  Session session = session_of(file.header().metadata, n_tokens, file.place());
  return {std::move(session), n_tokens, std::move(file)};
}

bool SessionStore::has(const std::string& name) const {
  struct stat status {};
  return lstat(path_of(name).c_str(), &status) == 0;
}

bool SessionStore::remove(const std::string& name) const {
  const std::filesystem::path path = path_of(name);
  if (unlink(path.c_str()) == 0) return true;
  if (errno == ENOENT || errno == ENOTDIR) return false;
  formats::throw_io_error(path, "cannot remove", errno);
}

std::vector<SessionInfo> SessionStore::list() const {
  std::vector<SessionInfo> out;
  std::error_code error;
  std::filesystem::directory_iterator entries(folder_, error), end;
  if (error == std::errc::no_such_file_or_directory) return out;
  for (; !error && entries != end; entries.increment(error)) {
    const std::filesystem::path path = entries->path();
    struct stat status {};
    SessionInfo info{.name = path.stem().string()};
    if (path.extension() != kSuffix || !valid_name(info.name) || stat(path.c_str(), &status) != 0) continue;
    if (!S_ISREG(status.st_mode)) continue;
    info.bytes = static_cast<uint64_t>(status.st_size), info.time = static_cast<int64_t>(status.st_mtime);
    try {
      const formats::StateHeader header = formats::read_state_header(path);
      const std::string& ids = note(header.metadata, kTokens, path.string());
      info.tokens = ids.empty() ? 0 : 1 + std::count(ids.begin(), ids.end(), ' ');
      info.state_tokens = n_tokens_of(header, path.string());
    } catch (const Error& e) { info.defect = e.what(); }
    out.push_back(std::move(info));
  }
  if (error) formats::throw_io_error(folder_, "cannot list", error.value());
  std::sort(out.begin(), out.end(), [](const SessionInfo& a, const SessionInfo& b) { return a.name < b.name; });
  return out;
}

}  // namespace linnet::runtime
