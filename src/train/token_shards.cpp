#include "train/token_shards.h"

#include <algorithm>
#include <cstdio>

#include "core/errors.h"
#include "core/rng.h"
#include "core/text.h"
#include "formats/mapped_file.h"
#include "train/shard_manifest.h"
#include "train/token_shard_file.h"
#include "train/tokenizer_files.h"

namespace linnet::train {

const char* name_of(Split split) { return split == Split::train ? "train" : "held-out"; }

Split parse_split(std::string_view name) {
  for (const Split split : {Split::train, Split::held_out})
    if (name == name_of(split)) return split;
  throw InvalidArgument(cat("split: expected train or held-out, got ", printable(name, 40)));
}

namespace {

// A shard's documents, and where they stand in the split.
struct Shard {
  formats::MappedFile file;       // or:
  std::vector<uint32_t> own_ids;  // of from_documents()
  std::vector<uint64_t> own_ends;
  TokenShardView view;
  int64_t first_document = 0;
};

std::string hex(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

}  // namespace

struct TokenShards::State {
  std::filesystem::path dir;
  std::string end_token;
  ShardIdentity identity;
  std::vector<ShardSource> sources;
  std::vector<Shard> shards[kSplits];
  int64_t documents[kSplits] = {}, tokens[kSplits] = {}, bytes[kSplits] = {};

  // Adds a shard to the split that the source is being read for.
  void add(size_t split, Shard shard) {
    shard.first_document = documents[split];
    documents[split] += std::ssize(shard.view.ends);
    tokens[split] += shard.view.n_tokens;
    identity.content_hash = mix64(identity.content_hash ^ shard.view.checksum);
    shards[split].push_back(std::move(shard));
  }

  void open_split(const ManifestSource& source, size_t split, const TokenIds& ids, ShardSource& out) {
    const ManifestSplit& expected = source.splits[split];
    out.documents[split] = {documents[split], documents[split]};
    const int64_t tokens_before = tokens[split];
    for (const ManifestShard& named : expected.shards) open_shard(named, split, ids);
    out.documents[split].end = documents[split];
    out.tokens[split] = tokens[split] - tokens_before;
    out.bytes[split] = expected.bytes;
    bytes[split] += expected.bytes;
    const auto require = [&](const char* what, int64_t want, int64_t got) {
      if (want != got)
        throw FormatError(cat((dir / kManifestFile).string(), ": ", printable(source.config.name, 60), ": ",
                              name_of(static_cast<Split>(split)), ": expected ", got, " ", what,
                              " as in the shards, got ", want));
    };
    require("documents", expected.documents, out.documents[split].size());
    require("tokens", expected.tokens, out.tokens[split]);
  }

  void open_shard(const ManifestShard& named, size_t split, const TokenIds& ids) {
    const std::filesystem::path path = dir / named.file;
    Shard shard{.file = formats::MappedFile(path)};
    shard.view = parse_token_shard(shard.file.bytes(), path.string());
    const auto require = [&](const char* what, const auto& want, const auto& got) {
      if (want != got)
        throw FormatError(cat(path.string(), ": ", what, ": expected ", want, " as in ", kManifestFile, ", got ", got));
    };
    require("tokenizer hash", hex(ids.tokenizer_hash), hex(shard.view.ids.tokenizer_hash));
    require("vocabulary size", ids.vocab_size, shard.view.ids.vocab_size);
    require("checksum", hex(named.checksum), hex(shard.view.checksum));
    add(split, std::move(shard));
  }
};

TokenShards TokenShards::open(const std::filesystem::path& dir) {
  const ShardManifest manifest = read_manifest(dir / kManifestFile);
  auto state = std::make_shared<State>();
  state->dir = dir;
  state->identity = {manifest.ids.vocab_size, manifest.ids.tokenizer_hash, 0};
  state->end_token = manifest.end_token;
  for (const ManifestSource& source : manifest.sources) {
    ShardSource out{.name = source.config.name, .licence = source.config.licence};
    for (size_t split = 0; split < kSplits; ++split) state->open_split(source, split, manifest.ids, out);
    state->sources.push_back(std::move(out));
  }
  return TokenShards(std::move(state));
}

TokenShards TokenShards::from_documents(int32_t vocab_size, std::span<const std::vector<int32_t>> train,
                                        std::span<const std::vector<int32_t>> held_out) {
  auto state = std::make_shared<State>();
  state->identity = {vocab_size, 0, 0};
  ShardSource source{.name = "memory"};
  for (size_t split = 0; split < kSplits; ++split) {
    Shard shard;
    for (const std::vector<int32_t>& document : split == 0 ? train : held_out) {
      if (document.empty()) throw InvalidArgument("documents: expected at least one token in each, got an empty one");
      for (const int32_t id : document) {
        if (id < 0 || id >= vocab_size)
          throw InvalidArgument(cat("documents: expected ids in 0..", vocab_size - 1, ", got ", id));
        shard.own_ids.push_back(static_cast<uint32_t>(id));
        shard.view.checksum = mix64(shard.view.checksum ^ static_cast<uint64_t>(id));
      }
      shard.own_ends.push_back(shard.own_ids.size());
      shard.view.checksum = mix64(~shard.view.checksum);
    }
    shard.view.id_bytes = 4;
    shard.view.tokens = reinterpret_cast<const std::byte*>(shard.own_ids.data());
    shard.view.n_tokens = std::ssize(shard.own_ids);
    shard.view.ends = shard.own_ends;
    source.documents[split] = {0, std::ssize(shard.own_ends)};
    source.tokens[split] = shard.view.n_tokens;
    state->add(split, std::move(shard));
  }
  state->sources.push_back(std::move(source));
  return TokenShards(std::move(state));
}

const ShardIdentity& TokenShards::identity() const { return state_->identity; }
const std::vector<ShardSource>& TokenShards::sources() const { return state_->sources; }
const std::string& TokenShards::end_token() const { return state_->end_token; }

std::filesystem::path TokenShards::tokenizer_folder() const {
  const std::filesystem::path folder = state_->dir / kTokenizerFolder;
  return !state_->dir.empty() && std::filesystem::exists(folder) ? folder : std::filesystem::path();
}

const std::filesystem::path& TokenShards::dir() const { return state_->dir; }

void TokenShards::require_tokenizer(const formats::Tokenizer& tokenizer) const {
  if (const uint64_t hash = tokenizer.hash(); hash != state_->identity.tokenizer_hash)
    throw FormatError(cat((state_->dir / kManifestFile).string(), ": tokenizer_hash: expected ", hex(hash),
                          ", the tokenizer's, got ", hex(state_->identity.tokenizer_hash),
                          ": the shards were made with another tokenizer"));
}

int64_t TokenShards::n_documents(Split split) const { return state_->documents[static_cast<size_t>(split)]; }
int64_t TokenShards::n_tokens(Split split) const { return state_->tokens[static_cast<size_t>(split)]; }
int64_t TokenShards::n_bytes(Split split) const { return state_->bytes[static_cast<size_t>(split)]; }

DocumentTokens TokenShards::document(Split split, int64_t index) const {
  const std::vector<Shard>& shards = state_->shards[static_cast<size_t>(split)];
  const auto after = std::upper_bound(shards.begin(), shards.end(), index,
                                      [](int64_t i, const Shard& shard) { return i < shard.first_document; });
  const Shard& shard = *std::prev(after);
  const auto i = static_cast<size_t>(index - shard.first_document);
  const TokenShardView& view = shard.view;
  const size_t begin = i == 0 ? 0 : view.ends[i - 1], size = view.ends[i] - begin;
  if (view.id_bytes == 2)
    return DocumentTokens(std::span(reinterpret_cast<const uint16_t*>(view.tokens) + begin, size));
  return DocumentTokens(std::span(reinterpret_cast<const uint32_t*>(view.tokens) + begin, size));
}

}  // namespace linnet::train
