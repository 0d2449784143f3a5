#include "cli/scored_documents.h"

#include "cli/ids_file.h"
#include "cli/input.h"
#include "core/errors.h"
#include "core/text.h"

namespace linnet::cli {

ScoredDocuments::ScoredDocuments(const ScoredSource& source, int64_t vocab_size) {
  const int n_given = !source.files.empty() + !source.ids.empty() + !source.data.empty();
  if (n_given != 1) throw InvalidArgument("perplexity: expected text files or --ids or --data, one of the three");
  if (source.n_documents < 0) throw InvalidArgument(cat("--documents: expected at least 1, got ", source.n_documents));
  if (!source.data.empty()) {
    open_shards(source, vocab_size);
  } else if (!source.files.empty()) {
    read_files(source);
  } else {
    const IdsFile ids = read_ids_file(source.ids, vocab_size);
    for (int64_t b = 0; b < ids.n_rows; ++b) documents_.emplace_back(ids.row(b).begin(), ids.row(b).end());
  }
}

void ScoredDocuments::read_files(const ScoredSource& source) {
  tokenizer_ = formats::Tokenizer::load(source.model);
  for (const std::filesystem::path& file : source.files) {
    std::vector<int32_t> ids = tokenizer_->encode(read_text({.file = file}, "perplexity"));
    if (source.bos) {
      if (!tokenizer_->bos_id()) throw InvalidArgument("--bos: the tokenizer has no such token");
      ids.insert(ids.begin(), *tokenizer_->bos_id());
    }
    if (ids.size() < 2)
      throw InvalidArgument(cat(file.string(), ": expected at least 2 tokens to score, got ", ids.size()));
    documents_.push_back(std::move(ids));
  }
}

void ScoredDocuments::open_shards(const ScoredSource& source, int64_t vocab_size) {
  tokenizer_ = formats::Tokenizer::load(source.model);
  split_ = train::parse_split(source.split);
  shards_ = train::TokenShards::open(source.data);
  shards_->require_tokenizer(*tokenizer_);
  if (shards_->identity().vocab_size > vocab_size)
    throw FormatError(cat(source.data.string(), ": ids below ", shards_->identity().vocab_size,
                          ": expected a model with as many embedding rows, got ", vocab_size));
  const int64_t n = shards_->n_documents(split_);
  if (n == 0)
    throw FormatError(cat(source.data.string(), ": expected documents in the split ", source.split, ", got none"));
  n_chosen_ = source.n_documents == 0 ? n : std::min(n, source.n_documents);
  groups_.clear();
  for (const train::ShardSource& shard_source : shards_->sources()) groups_.push_back(shard_source.name);
}

int64_t ScoredDocuments::index(int64_t i) const { return i * shards_->n_documents(split_) / n_chosen_; }

int64_t ScoredDocuments::n_tokens() const {
  if (shards_) return shards_->n_tokens(split_) * n_chosen_ / shards_->n_documents(split_);
  int64_t n = 0;
  for (const std::vector<int32_t>& document : documents_) n += std::ssize(document);
  return n;
}

std::vector<int32_t> ScoredDocuments::tokens(int64_t i) const {
  if (!shards_) return documents_[static_cast<size_t>(i)];
  const train::DocumentTokens document = shards_->document(split_, index(i));
  std::vector<int32_t> ids(static_cast<size_t>(document.size()));
  document.copy(0, ids);
  return ids;
}

size_t ScoredDocuments::group(int64_t i) const {
  if (!shards_) return 0;
  size_t g = 0;
  while (shards_->sources()[g].documents[static_cast<size_t>(split_)].end <= index(i)) ++g;
  return g;
}

int64_t ScoredDocuments::bytes_of(int32_t id) const {
  if (!tokenizer_ || (shards_ && tokenizer_->is_special(id))) return 0;
  return std::ssize(tokenizer_->bytes_of(id));
}

}  // namespace linnet::cli
