// Token shards: what was written is read, and nothing but an intact folder is.
#include "train/token_shards.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "core/errors.h"
#include "core/rng.h"
#include "formats/file_test_support.h"
#include "train/shard_manifest.h"
#include "train/token_shard_file.h"

namespace linnet::train {
namespace {

using formats::contents;
using formats::error_of;
using formats::ScratchFolder;
using testing::AllOf;
using testing::HasSubstr;

using Document = std::vector<int32_t>;

std::vector<Document> random_documents(uint64_t seed, int n, int32_t vocab_size) {
  Rng rng(seed);
  std::vector<Document> documents(static_cast<size_t>(n));
  for (Document& document : documents) {
    document.resize(1 + rng.bits() % 40);
    for (int32_t& id : document) id = static_cast<int32_t>(rng.bits() % static_cast<uint64_t>(vocab_size));
  }
  documents.front().front() = vocab_size - 1;
  return documents;
}

Document tokens_of(const DocumentTokens& document) {
  Document ids(static_cast<size_t>(document.size()));
  document.copy(0, ids);
  return ids;
}

uint64_t write_shard(const std::filesystem::path& path, const TokenIds& ids, const std::vector<Document>& documents) {
  TokenShardWriter writer(path, ids);
  for (const Document& document : documents) writer.add(document);
  return writer.commit();
}

// A folder of two sources, the first with two training shards, the second without held-out documents.
class token_shards : public testing::Test {
 protected:
  explicit token_shards(int32_t vocab_size = 1000) : ids_{0x1234, vocab_size} {
    manifest_ = {.ids = ids_, .held_out = 0.1, .end_token = "[EOS]"};
    for (const char* name : {"verse", "prose"}) {
      ManifestSource source;
      source.config = {.name = name, .licence = "public domain"};
      manifest_.sources.push_back(source);
    }
    add_shard(0, 0, 7), add_shard(0, 0, 1), add_shard(0, 1, 3), add_shard(1, 0, 5);
    save();
  }

  void add_shard(size_t source, size_t split, int n) {
    ManifestSplit& out = manifest_.sources[source].splits[split];
    const std::string file = "s" + std::to_string(n_shards_++) + ".bin";
    const auto documents = random_documents(static_cast<uint64_t>(n_shards_), n, ids_.vocab_size);
    out.shards.push_back({file, write_shard(folder_ / file, ids_, documents)});
    for (const Document& document : documents) {
      ++out.documents;
      out.tokens += std::ssize(document);
      out.bytes += 10;
      expected_[split].push_back(document);
    }
  }
  void save() { folder_.write(kManifestFile, manifest_json(manifest_)); }
  void expect_documents() {
    const auto shards = TokenShards::open(folder_.path());
    for (const Split split : {Split::train, Split::held_out}) {
      const auto& expected = expected_[static_cast<size_t>(split)];
      ASSERT_EQ(shards.n_documents(split), std::ssize(expected));
      int64_t tokens = 0;
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_EQ(tokens_of(shards.document(split, static_cast<int64_t>(i))), expected[i]) << i;
        tokens += std::ssize(expected[i]);
      }
      EXPECT_EQ(shards.n_tokens(split), tokens);
      EXPECT_EQ(shards.n_bytes(split), 10 * std::ssize(expected));
    }
  }
  std::string open_error() {
    return error_of<FormatError>([&] { TokenShards::open(folder_.path()); });
  }

  ScratchFolder folder_;
  TokenIds ids_;
  ShardManifest manifest_;
  std::vector<Document> expected_[kSplits];
  int n_shards_ = 0;
};

class wide_token_shards : public token_shards {
 protected:
  wide_token_shards() : token_shards(65537) {}
};

TEST_F(token_shards, round_trip) {
  expect_documents();
  const auto shards = TokenShards::open(folder_.path());
  EXPECT_FALSE(shards.document(Split::train, 0).wide());
  EXPECT_EQ(shards.identity().vocab_size, 1000);
  EXPECT_EQ(shards.identity().tokenizer_hash, 0x1234u);
  ASSERT_EQ(shards.sources().size(), 2u);
  EXPECT_EQ(shards.sources()[1].name, "prose");
  EXPECT_EQ(shards.sources()[1].licence, "public domain");
  EXPECT_EQ(shards.sources()[0].documents[0].end, 8);
  EXPECT_EQ(shards.sources()[1].documents[0].begin, 8);
  EXPECT_EQ(shards.sources()[1].documents[0].end, 13);
  EXPECT_EQ(shards.sources()[1].documents[1].size(), 0);
  EXPECT_EQ(shards.sources()[0].tokens[0] + shards.sources()[1].tokens[0], shards.n_tokens(Split::train));
}

TEST_F(wide_token_shards, round_trip) {
  expect_documents();
  EXPECT_TRUE(TokenShards::open(folder_.path()).document(Split::train, 0).wide());
}

// Equal wherever it lies, another when one id is.
TEST_F(token_shards, identity_is_the_content) {
  const auto hash = [&] { return TokenShards::open(folder_.path()).identity().content_hash; };
  const uint64_t before = hash();
  manifest_.sources[0].config.name = "another";
  save();
  EXPECT_EQ(hash(), before);
  auto documents = random_documents(4, 5, 1000);
  documents[2][0] ^= 1;
  manifest_.sources[1].splits[0].shards[0].checksum = write_shard(folder_ / "s3.bin", ids_, documents);
  save();
  EXPECT_NE(hash(), before);
}

TEST_F(token_shards, from_documents) {
  const auto shards = TokenShards::from_documents(1000, expected_[0], expected_[1]);
  for (size_t i = 0; i < expected_[0].size(); ++i)
    EXPECT_EQ(tokens_of(shards.document(Split::train, static_cast<int64_t>(i))), expected_[0][i]);
  EXPECT_EQ(shards.n_documents(Split::held_out), 3);
  EXPECT_NE(shards.identity().content_hash,
            TokenShards::from_documents(1000, expected_[1], expected_[0]).identity().content_hash);
  EXPECT_THAT(error_of<InvalidArgument>([&] { TokenShards::from_documents(999, expected_[0], {}); }),
              HasSubstr("expected ids in 0..998, got 999"));
  EXPECT_EQ(TokenShards::from_documents(5, {}, {}).n_documents(Split::train), 0);
}

TEST_F(token_shards, every_truncation_and_every_changed_byte_is_refused) {
  const std::string whole = contents(folder_ / "s1.bin");
  for (size_t size = 0; size < whole.size(); ++size) {
    folder_.write("s1.bin", whole.substr(0, size));
    EXPECT_THAT(open_error(), HasSubstr("s1.bin")) << size;
  }
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string bad = whole;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    folder_.write("s1.bin", bad);
    EXPECT_THAT(open_error(), HasSubstr("s1.bin")) << i;
  }
  folder_.write("s1.bin", whole + std::string(8, '\0'));
  EXPECT_THAT(open_error(), HasSubstr("the file's length"));
  folder_.write("s1.bin", whole);
  expect_documents();
}

// A shard with a right checksum whose content is wrong.
class forged_token_shard : public testing::Test {
 protected:
  forged_token_shard() {
    const ScratchFolder folder;
    write_shard(folder / "a.bin", {7, 1000}, {{1, 2, 3}, {4}, {5, 6}});
    const std::string file = contents(folder / "a.bin");
    words_.resize(file.size() / 8);
    std::memcpy(words_.data(), file.data(), file.size());
  }
  template <class T>
  void put(size_t byte, T value) {
    std::memcpy(reinterpret_cast<char*>(words_.data()) + byte, &value, sizeof value);
  }
  std::string error() {
    const auto bytes = std::as_bytes(std::span(words_));
    put(24, token_shard_checksum(bytes));
    return error_of<FormatError>([&] { parse_token_shard(bytes, "a.bin"); });
  }

  std::vector<uint64_t> words_;  // 64 bytes of header, 12 of ids, 4 zeros, 3 ends
};

TEST_F(forged_token_shard, header) {
  put(0, 'X');
  EXPECT_EQ(error(), "a.bin: byte 0: expected \"LINNETTK\", got \"XINNETTK\": not a token shard");
  put(0, 'L');
  put(8, uint32_t{2});
  EXPECT_EQ(error(), "a.bin: byte 8: expected version 1, got 2");
  put(8, uint32_t{1});
  put(12, uint32_t{4});
  EXPECT_EQ(error(), "a.bin: byte 12: expected ids of 2 bytes for a vocabulary of 1000, got 4");
  put(12, uint32_t{2});
  put(32, uint64_t{1} << 63);
  EXPECT_EQ(error(), "a.bin: byte 32: expected at most 20 tokens, got 9223372036854775808");
  put(32, uint64_t{5});
  EXPECT_THAT(error(), HasSubstr("document 2: expected an end in 5..5, got 6"));
  put(32, uint64_t{6});
  put(40, uint64_t{1} << 61);
  EXPECT_EQ(error(), "a.bin: byte 40: expected at most 5 documents, got 2305843009213693952");
  put(40, uint64_t{2});
  EXPECT_EQ(error(), "a.bin: byte 32: expected 40 bytes of tokens and documents, got 6 tokens and 2 documents");
  put(40, uint64_t{3});
  put(56, uint32_t{0});
  EXPECT_THAT(error(), HasSubstr("byte 56: expected a vocabulary of 1 to 16777216 ids, got 0"));
  put(56, uint32_t{6});
  EXPECT_EQ(error(), "a.bin: token 5: expected an id in 0..5, got 6");
  put(56, uint32_t{1000});
  put(60, uint32_t{1});
  EXPECT_EQ(error(), "a.bin: byte 60: expected 0, got 1");
}

TEST_F(forged_token_shard, ends_of_documents) {
  put(80, uint64_t{0});
  EXPECT_EQ(error(), "a.bin: document 0: expected an end in 1..6, got 0");
  put(80, uint64_t{4});
  EXPECT_EQ(error(), "a.bin: document 1: expected an end in 5..6, got 4");
  put(80, uint64_t{3});
  put(96, uint64_t{7});
  EXPECT_EQ(error(), "a.bin: document 2: expected an end in 5..6, got 7");
  put(96, uint64_t{5});
  EXPECT_EQ(error(), "a.bin: documents: expected the last to end at token 6, got 5");
}

TEST_F(token_shards, the_manifest_and_the_shards_must_agree) {
  const ShardManifest good = manifest_;
  const auto error_with = [&](auto change) {
    manifest_ = good;
    change(manifest_);
    save();
    return open_error();
  };
  const auto with_train = [&](auto change) {
    return error_with([&](ShardManifest& m) { change(m.sources[0].splits[0]); });
  };
  EXPECT_THAT(with_train([](ManifestSplit& s) { ++s.documents; }),
              HasSubstr("verse: train: expected 8 documents as in the shards, got 9"));
  EXPECT_THAT(with_train([](ManifestSplit& s) { --s.tokens; }), HasSubstr("tokens as in the shards"));
  EXPECT_THAT(with_train([](ManifestSplit& s) { s.shards[0].checksum ^= 1; }), HasSubstr("s0.bin: checksum: expected"));
  EXPECT_THAT(with_train([](ManifestSplit& s) { s.shards[0].file = "../s0.bin"; }),
              HasSubstr("sources[0].train.shards[0].file: expected a file's name without a folder"));
  EXPECT_THAT(with_train([](ManifestSplit& s) { s.shards[1].file = "s0.bin"; }),
              HasSubstr("another name for each shard"));
  EXPECT_THAT(error_with([](ShardManifest& m) { m.ids.tokenizer_hash = 1; }),
              AllOf(HasSubstr("s0.bin: tokenizer hash: expected 0000000000000001"), HasSubstr("got 0000000000001234")));
  EXPECT_THAT(error_with([](ShardManifest& m) { m.ids.vocab_size = 1001; }),
              HasSubstr("s0.bin: vocabulary size: expected 1001 as in manifest.json, got 1000"));
}

TEST_F(token_shards, bad_manifests) {
  const std::string good = contents(folder_ / kManifestFile);
  const auto error_with = [&](const std::string& from, const std::string& to) {
    std::string bad = good;
    bad.replace(bad.find(from), from.size(), to);
    folder_.write(kManifestFile, bad);
    return open_error();
  };
  EXPECT_THAT(error_with("token shards", "tokens"), HasSubstr("format: expected \"linnet token shards\""));
  EXPECT_THAT(error_with("\"version\": 1", "\"version\": 2"), HasSubstr("version: expected integer in [1, 1], got 2"));
  EXPECT_THAT(error_with("0000000000001234", "1234"), HasSubstr("tokenizer_hash: expected 16 hexadecimal digits"));
  EXPECT_THAT(error_with("\"documents\": 8", "\"documents\": -8"), HasSubstr("sources[0].train.documents"));
  folder_.write(kManifestFile, "");
  EXPECT_THAT(open_error(), HasSubstr("manifest.json"));
  std::filesystem::remove(folder_ / kManifestFile);
  EXPECT_THAT(error_of<IoError>([&] { TokenShards::open(folder_.path()); }), HasSubstr("manifest.json"));
}

TEST_F(token_shards, another_tokenizer_is_refused) {
  const auto tokens = formats::letter_vocabulary(300);
  const formats::Tokenizer tokenizer(formats::RankTable::parse(formats::ranks_file_text(tokens), "ranks"),
                                     formats::SpecialTokens::kimi(300));
  const auto shards = TokenShards::open(folder_.path());
  EXPECT_THAT(error_of<FormatError>([&] { shards.require_tokenizer(tokenizer); }),
              AllOf(HasSubstr("got 0000000000001234"), HasSubstr("another tokenizer")));
}

TEST(split, names) {
  EXPECT_EQ(parse_split("train"), Split::train);
  EXPECT_EQ(parse_split("held-out"), Split::held_out);
  EXPECT_THAT(error_of<InvalidArgument>([] { parse_split("test"); }),
              HasSubstr("expected train or held-out, got test"));
}

}  // namespace
}  // namespace linnet::train
