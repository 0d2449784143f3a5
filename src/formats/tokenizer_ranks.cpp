#include "formats/tokenizer_ranks.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <charconv>

#include "core/errors.h"
#include "core/text.h"
#include "formats/atomic_file.h"
#include "formats/mapped_file.h"
#include "formats/tokenizer_base64.h"

namespace linnet::formats {

namespace {

struct Line {
  TokenId rank;
  uint32_t begin, end;  // of the token's bytes in the text decoded so far
};

[[noreturn]] void fail(const std::string& file, size_t line, std::string_view what, const std::string& expected,
                       const std::string& got) {
  throw FormatError(cat(file, ":", line, ": ", what, ": expected ", expected, ", got ", got));
}

std::string quoted(std::string_view text) { return cat("\"", printable(text, 40), "\""); }

// One line without its line break.
Line parse_line(std::string_view text, size_t n_lines, const std::string& file, size_t number, std::string& decoded) {
  if (text.empty()) fail(file, number, "line", "\"base64 rank\"", "an empty line");
  if (text.back() == '\r') fail(file, number, "line", "an end of line \\n", "\\r\\n");
  const size_t space = text.find(' ');
  if (space == text.npos) fail(file, number, "line", "\"base64 rank\"", quoted(text));

  const std::string_view token = text.substr(0, space), digits = text.substr(space + 1);
  Line line{0, static_cast<uint32_t>(decoded.size()), 0};
  if (!append_base64_decoded(token, decoded)) fail(file, number, "token", "base64", quoted(token));
  line.end = static_cast<uint32_t>(decoded.size());
  if (line.begin == line.end) fail(file, number, "token", "at least one byte", "none");

  const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), line.rank);
  const bool whole = stop == digits.data() + digits.size();
  if (!whole || error == std::errc::invalid_argument) fail(file, number, "rank", "a whole number", quoted(digits));
  if (error != std::errc{} || line.rank < 0 || static_cast<size_t>(line.rank) >= n_lines) {
    fail(file, number, "rank", cat("0..", n_lines - 1, " (the file has ", n_lines, " lines)"), quoted(digits));
  }
  return line;
}

}  // namespace

RankTable RankTable::load(const std::filesystem::path& file) {
  const MappedFile mapped(file);
  const std::span<const std::byte> bytes = mapped.bytes();
  return parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, file.string());
}

RankTable RankTable::parse(std::string_view text, const std::string& file_name) {
  if (text.size() >= UINT32_MAX) {
    throw FormatError(cat(file_name, ": size: expected less than 4 GiB, got ", bytes_text(text.size())));
  }
  if (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  const size_t n_lines = static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) + 1;

  std::string decoded;
  decoded.reserve(text.size() / 4 * 3);
  std::vector<Line> by_rank(n_lines);
  std::vector<uint32_t> line_numbers(n_lines, 0);
  for (uint32_t number = 1; number <= n_lines; ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const Line line = parse_line(text.substr(0, end), n_lines, file_name, number, decoded);
    text.remove_prefix(std::min(end + 1, text.size()));
    const auto rank = static_cast<size_t>(line.rank);
    if (line_numbers[rank] != 0) {
      fail(file_name, number, "rank", "each rank once", cat(rank, " as on line ", line_numbers[rank]));
    }
    by_rank[rank] = line;
    line_numbers[rank] = number;
  }

  // n lines with n different ranks below n: there is no hole.
  RankTable table;
  table.arena_.reserve(decoded.size());
  table.ends_.reserve(n_lines);
  for (const Line& line : by_rank) {
    table.arena_.append(decoded, line.begin, line.end - line.begin);
    table.ends_.push_back(static_cast<uint32_t>(table.arena_.size()));
  }
  table.index(file_name, line_numbers);
  return table;
}

void RankTable::index(const std::string& file_name, std::span<const uint32_t> lines) {
  slots_.resize(std::bit_ceil(ends_.size() * 2));
  for (TokenId id = 0; id < size(); ++id) {
    const std::string_view token = bytes(id);
    const uint64_t hash = XXH3_64bits(token.data(), token.size());
    Slot& slot = slots_[slot_of(token, hash)];
    if (slot.id != kNone) {
      const auto a = lines[static_cast<size_t>(slot.id)], b = lines[static_cast<size_t>(id)];
      fail(file_name, std::max(a, b), "token", "each byte string once",
           cat(quoted(token), " as on line ", std::min(a, b)));
    }
    slot = {static_cast<uint32_t>(hash >> 32), id};
  }
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    byte_ranks_.push_back(rank_of({&c, 1}));
    if (byte_ranks_.back() == kNone) {
      throw FormatError(cat(file_name, ": tokens: expected all 256 single bytes, got none for byte ", byte));
    }
  }
}

// The slot that holds these bytes, or the free one where they belong.
size_t RankTable::slot_of(std::string_view token, uint64_t hash) const noexcept {
  const size_t mask = slots_.size() - 1;
  const auto tag = static_cast<uint32_t>(hash >> 32);
  size_t at = hash & mask;
  while (slots_[at].id != kNone && !(slots_[at].tag == tag && bytes(slots_[at].id) == token)) at = (at + 1) & mask;
  return at;
}

TokenId RankTable::rank_of(std::string_view token) const noexcept {
  return slots_[slot_of(token, XXH3_64bits(token.data(), token.size()))].id;
}

std::string ranks_file_text(std::span<const std::string> tokens) {
  std::string text;
  for (size_t rank = 0; rank < tokens.size(); ++rank) text += cat(base64_encoded(tokens[rank]), " ", rank, "\n");
  return text;
}

void write_ranks_file(const std::filesystem::path& file, std::span<const std::string> tokens) {
  AtomicFile out(file);
  out.append(ranks_file_text(tokens));
  out.commit();
}

std::vector<std::string> letter_vocabulary(int32_t n_tokens) {
  if (n_tokens < 256) throw InvalidArgument(cat("letter_vocabulary: n_tokens: expected at least 256, got ", n_tokens));
  std::vector<std::string> tokens;
  tokens.reserve(static_cast<size_t>(n_tokens));
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  // Words of n letters are the words of n - 1 letters, each followed by every letter.
  size_t stem = 'a', last_stem = 'z';
  while (tokens.size() < static_cast<size_t>(n_tokens)) {
    const size_t next_stem = tokens.size();
    for (; stem <= last_stem; ++stem) {
      for (char letter = 'a'; letter <= 'z' && tokens.size() < static_cast<size_t>(n_tokens); ++letter) {
        tokens.push_back(tokens[stem] + letter);
      }
    }
    stem = next_stem, last_stem = tokens.size() - 1;
  }
  return tokens;
}

}  // namespace linnet::formats
