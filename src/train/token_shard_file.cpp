#include "train/token_shard_file.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstring>
#include <vector>

#include "core/errors.h"
#include "core/text.h"
#include "formats/atomic_file.h"

namespace linnet::train {
namespace {

static_assert(std::endian::native == std::endian::little, "the file is written as the numbers lie in memory");

struct Header {
  std::array<char, 8> magic;
  uint32_t version;
  uint32_t id_bytes;
  uint64_t file_bytes;
  uint64_t checksum;
  uint64_t n_tokens;
  uint64_t n_documents;
  uint64_t tokenizer_hash;
  uint32_t vocab_size;
  uint32_t zero;
};
static_assert(sizeof(Header) == 64 && offsetof(Header, checksum) == 24 && offsetof(Header, n_tokens) == 32);

constexpr std::array<char, 8> kMagic = {'L', 'I', 'N', 'N', 'E', 'T', 'T', 'K'};
constexpr uint32_t kMaxVocabSize = 1u << 24;

uint64_t padded(uint64_t bytes) { return (bytes + 7) / 8 * 8; }

uint64_t checksum_of(const Header& header, uint64_t body_hash) {
  std::array<char, sizeof(Header) - sizeof header.checksum> rest;
  const auto* bytes = reinterpret_cast<const char*>(&header);
  std::memcpy(rest.data(), bytes, offsetof(Header, checksum));
  std::memcpy(rest.data() + offsetof(Header, checksum), bytes + offsetof(Header, n_tokens),
              sizeof(Header) - offsetof(Header, n_tokens));
  return XXH64(rest.data(), rest.size(), body_hash);
}

// In this order, so that the message names the first thing that is not a shard's.
Header check_header(std::span<const std::byte> file, std::string_view place) {
  Header h{};
  const auto fail = [&](auto byte, const auto&... expected_and_got) {
    throw FormatError(cat(place, ": byte ", byte, ": expected ", expected_and_got...));
  };
  if (file.size() < sizeof h)
    throw FormatError(cat(place, ": expected a token shard of at least ", sizeof h, " bytes, got ", file.size()));
  std::memcpy(&h, file.data(), sizeof h);
  const std::string_view magic(h.magic.data(), h.magic.size());
  if (h.magic != kMagic) fail(0, "\"LINNETTK\", got \"", printable(magic, 8), "\": not a token shard");
  if (h.version != kTokenShardVersion) fail(8, "version ", kTokenShardVersion, ", got ", h.version);
  if (h.file_bytes != file.size()) fail(16, "the file's length ", file.size(), ", got ", h.file_bytes);
  if (const uint64_t sum = token_shard_checksum(file); h.checksum != sum)
    fail(24, "checksum ", sum, " of the content, got ", h.checksum);
  if (h.vocab_size == 0 || h.vocab_size > kMaxVocabSize)
    fail(56, "a vocabulary of 1 to ", kMaxVocabSize, " ids, got ", h.vocab_size);
  const TokenIds ids{.vocab_size = static_cast<int32_t>(h.vocab_size)};
  if (h.id_bytes != static_cast<uint32_t>(ids.bytes()))
    fail(12, "ids of ", ids.bytes(), " bytes for a vocabulary of ", h.vocab_size, ", got ", h.id_bytes);
  if (h.zero != 0) fail(60, "0, got ", h.zero);
  const uint64_t body = file.size() - sizeof h;
  if (h.n_documents > body / 8) fail(40, "at most ", body / 8, " documents, got ", h.n_documents);
  if (h.n_tokens > body / h.id_bytes) fail(32, "at most ", body / h.id_bytes, " tokens, got ", h.n_tokens);
  if (padded(h.n_tokens * h.id_bytes) + 8 * h.n_documents != body)
    fail(32, body, " bytes of tokens and documents, got ", h.n_tokens, " tokens and ", h.n_documents, " documents");
  return h;
}

void check_ends(std::span<const uint64_t> ends, uint64_t n_tokens, std::string_view place) {
  uint64_t before = 0;
  for (size_t i = 0; i < ends.size(); ++i) {
    if (ends[i] <= before || ends[i] > n_tokens)
      throw FormatError(
          cat(place, ": document ", i, ": expected an end in ", before + 1, "..", n_tokens, ", got ", ends[i]));
    before = ends[i];
  }
  if (before != n_tokens)
    throw FormatError(cat(place, ": documents: expected the last to end at token ", n_tokens, ", got ", before));
}

template <class Id>
void check_ids(std::span<const Id> ids, int32_t vocab_size, std::string_view place) {
  Id highest = 0;  // without a branch the loop runs at the speed of memory
  for (const Id id : ids) highest = std::max(highest, id);
  if (highest < static_cast<uint32_t>(vocab_size)) return;
  const auto at = std::find_if(ids.begin(), ids.end(), [&](Id id) { return id >= static_cast<uint32_t>(vocab_size); });
  throw FormatError(cat(place, ": token ", at - ids.begin(), ": expected an id in 0..", vocab_size - 1, ", got ", *at));
}

}  // namespace

uint64_t token_shard_checksum(std::span<const std::byte> file) {
  Header header;
  std::memcpy(&header, file.data(), sizeof header);
  return checksum_of(header, XXH64(file.data() + sizeof header, file.size() - sizeof header, 0));
}

TokenShardView parse_token_shard(std::span<const std::byte> file, std::string_view place) {
  const Header h = check_header(file, place);
  TokenShardView view{.ids = {h.tokenizer_hash, static_cast<int32_t>(h.vocab_size)},
                      .checksum = h.checksum,
                      .id_bytes = static_cast<int>(h.id_bytes),
                      .tokens = file.data() + sizeof h,
                      .n_tokens = static_cast<int64_t>(h.n_tokens)};
  const std::byte* ends = view.tokens + padded(h.n_tokens * h.id_bytes);
  view.ends = {reinterpret_cast<const uint64_t*>(ends), h.n_documents};
  check_ends(view.ends, h.n_tokens, place);
  if (h.id_bytes == 2)
    check_ids(std::span(reinterpret_cast<const uint16_t*>(view.tokens), h.n_tokens), view.ids.vocab_size, place);
  else check_ids(std::span(reinterpret_cast<const uint32_t*>(view.tokens), h.n_tokens), view.ids.vocab_size, place);
  return view;
}

struct TokenShardWriter::State {
  State(const std::filesystem::path& path, const TokenIds& token_ids) : file(path), ids(token_ids) {
    XXH64_reset(&body_hash, 0);
    const Header zeros{};  // refused by readers; the header follows when all is counted
    file.append(std::as_bytes(std::span(&zeros, 1)));
  }

  static constexpr size_t kBufferBytes = size_t{1} << 20;

  void append(const void* data, size_t bytes) {
    for (const auto* from = static_cast<const std::byte*>(data); bytes > 0;) {
      const size_t n = std::min(bytes, kBufferBytes - n_buffered);
      std::memcpy(buffer.get() + n_buffered, from, n);
      n_buffered += n, from += n, bytes -= n;
      if (n_buffered == kBufferBytes) flush();
    }
  }
  void flush() {
    XXH64_update(&body_hash, buffer.get(), n_buffered);
    file.append(std::span(buffer.get(), n_buffered));
    body_bytes += n_buffered;
    n_buffered = 0;
  }

  formats::AtomicFile file;
  TokenIds ids;
  std::unique_ptr<std::byte[]> buffer = std::make_unique<std::byte[]>(kBufferBytes);
  size_t n_buffered = 0;
  std::vector<uint64_t> ends;
  uint64_t n_tokens = 0, body_bytes = 0;
  XXH64_state_t body_hash;
};

TokenShardWriter::TokenShardWriter(const std::filesystem::path& path, const TokenIds& ids)
    : state_(std::make_unique<State>(path, ids)) {}
TokenShardWriter::~TokenShardWriter() = default;

int64_t TokenShardWriter::n_tokens() const { return static_cast<int64_t>(state_->n_tokens); }

void TokenShardWriter::add(std::span<const int32_t> document) {
  assert(!document.empty());
  for (const int32_t id : document) {
    assert(id >= 0 && id < state_->ids.vocab_size);
    const auto narrow = static_cast<uint16_t>(id);
    if (state_->ids.bytes() == 2) state_->append(&narrow, sizeof narrow);
    else state_->append(&id, sizeof id);
  }
  state_->n_tokens += document.size();
  state_->ends.push_back(state_->n_tokens);
}

uint64_t TokenShardWriter::commit() {
  State& s = *state_;
  static constexpr std::array<char, 8> kZeros = {};
  const uint64_t id_bytes = s.n_tokens * static_cast<uint64_t>(s.ids.bytes());
  s.append(kZeros.data(), padded(id_bytes) - id_bytes);
  s.append(s.ends.data(), s.ends.size() * sizeof s.ends[0]);
  s.flush();
  Header header{.magic = kMagic,
                .version = kTokenShardVersion,
                .id_bytes = static_cast<uint32_t>(s.ids.bytes()),
                .file_bytes = sizeof(Header) + s.body_bytes,
                .n_tokens = s.n_tokens,
                .n_documents = s.ends.size(),
                .tokenizer_hash = s.ids.tokenizer_hash,
                .vocab_size = static_cast<uint32_t>(s.ids.vocab_size)};
  header.checksum = checksum_of(header, XXH64_digest(&s.body_hash));
  s.file.write_at(0, std::as_bytes(std::span(&header, 1)));
  s.file.commit();
  return header.checksum;
}

}  // namespace linnet::train
