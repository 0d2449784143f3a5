// What a run reads, and that it reads the same again from any position.
#include "train/batches.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "core/errors.h"

namespace linnet::train {
namespace {

constexpr int32_t kVocab = 1000, kEnd = 999;

// Document d is d * 10, d * 10 + 1, ..., kEnd.
std::vector<std::vector<int32_t>> documents(const std::vector<int32_t>& lengths) {
  std::vector<std::vector<int32_t>> all;
  for (size_t d = 0; d < lengths.size(); ++d) {
    std::vector<int32_t>& ids = all.emplace_back(static_cast<size_t>(lengths[d]));
    std::iota(ids.begin(), ids.end(), static_cast<int32_t>(d) * 10);
    ids.back() = kEnd;
  }
  return all;
}

RunDataConfig config(int64_t T, int64_t batch, int64_t micro) {
  RunDataConfig c;
  c.sequence_tokens = T, c.batch_tokens = batch, c.micro_batch_tokens = micro;
  return c;
}

struct BatchesTest : testing::Test {
  std::vector<std::vector<int32_t>> texts = documents({5, 3, 9, 2, 7, 10, 4});
  TokenShards shards = TokenShards::from_documents(kVocab, texts, texts);
};

TEST_F(BatchesTest, EveryTokenOfAnEpochIsReadOnceAndPredictsTheNext) {
  Batches batches(shards, config(8, 16, 8), StatePolicy::zero, -1);
  std::map<int32_t, int> seen;
  int64_t n = 0, scored = 0;
  while (n < 40) {  // one epoch has 40 tokens
    for (const Batch& batch : batches.next_step()) {
      ASSERT_EQ(batch.n_tokens(), 8);
      ASSERT_EQ(batch.seq_start.size(), batch.sequences.size() + 1);
      ASSERT_EQ(batch.seq_start, batch.attention_start);
      for (size_t s = 0; s + 1 < batch.seq_start.size(); ++s)
        for (int32_t i = batch.seq_start[s]; i < batch.seq_start[s + 1]; ++i) {
          const auto at = static_cast<size_t>(i);
          const int32_t id = batch.ids[at];
          ++seen[id];
          if (id == kEnd) {
            EXPECT_EQ(batch.target[at], -1);
            EXPECT_EQ(i + 1, batch.seq_start[s + 1]) << "a document ends its sequence";
          } else {
            const std::vector<int32_t>& text = texts[static_cast<size_t>(id / 10)];
            EXPECT_EQ(batch.target[at], text[static_cast<size_t>(id % 10) + 1]);
            if (i + 1 < batch.seq_start[s + 1]) { EXPECT_EQ(batch.ids[at + 1], batch.target[at]); }
          }
          if (i == batch.seq_start[s]) {
            const bool is_first = id % 10 == 0 && id != kEnd;
            EXPECT_EQ(batch.sequences[s].continues, !is_first);
          }
        }
      n += batch.n_tokens(), scored += batch.n_scored;
    }
  }
  int64_t distinct = 0;
  for (const auto& [id, count] : seen) distinct += id != kEnd;
  EXPECT_EQ(distinct, 40 - 7) << "each token is read before the second epoch ends";
  EXPECT_EQ(scored, n - seen[kEnd]);
}

TEST_F(BatchesTest, GoesOnFromASavedPosition) {
  for (const Packing packing : {Packing::documents, Packing::stream}) {
    RunDataConfig c = config(6, 18, 6);
    c.packing = packing, c.shuffle_seed = 4;
    Batches all(shards, c, StatePolicy::passed, -1);
    for (int i = 0; i < 5; ++i) all.next_step();
    Batches resumed(shards, c, StatePolicy::passed, -1);
    resumed.seek(all.position());
    for (int i = 0; i < 10; ++i) {
      const auto want = all.next_step(), got = resumed.next_step();
      ASSERT_EQ(got.size(), want.size());
      for (size_t b = 0; b < got.size(); ++b) {
        EXPECT_EQ(got[b].ids, want[b].ids);
        EXPECT_EQ(got[b].target, want[b].target);
        EXPECT_EQ(got[b].seq_start, want[b].seq_start);
      }
    }
  }
}

TEST_F(BatchesTest, AStreamHasOneSequenceARowAndScoresAcrossDocuments) {
  RunDataConfig c = config(16, 16, 16);
  c.packing = Packing::stream;
  Batches batches(shards, c, StatePolicy::zero, -1);
  std::vector<int32_t> ids, targets;
  for (int i = 0; i < 4; ++i)
    for (const Batch& batch : batches.next_step()) {
      EXPECT_EQ(batch.sequences.size(), 1u);
      EXPECT_EQ(batch.sequences[0].continues, i > 0);
      EXPECT_EQ(batch.n_scored, 16);
      ids.insert(ids.end(), batch.ids.begin(), batch.ids.end());
      targets.insert(targets.end(), batch.target.begin(), batch.target.end());
    }
  for (size_t i = 0; i + 1 < ids.size(); ++i) EXPECT_EQ(targets[i], ids[i + 1]) << i;
}

TEST_F(BatchesTest, SegmentsOfARowBoundAttentionAlone) {
  Batches batches(shards, config(4, 8, 8), StatePolicy::passed_with_gradient, -1);
  ASSERT_EQ(batches.n_lanes(), 1);
  bool reaches_over = false;
  for (int i = 0; i < 8; ++i) {
    const Batch batch = batches.next_step()[0];
    EXPECT_EQ(batch.n_tokens(), 8);
    EXPECT_NE(std::find(batch.attention_start.begin(), batch.attention_start.end(), 4), batch.attention_start.end());
    reaches_over |= std::find(batch.seq_start.begin(), batch.seq_start.end(), 4) == batch.seq_start.end();
  }
  EXPECT_TRUE(reaches_over) << "some document lies across the middle of a row";
}

TEST_F(BatchesTest, OnlyTokensAfterTheMarkerCount) {
  const std::vector<std::vector<int32_t>> text = {{1, 2, 7, 3, 4, 5, 6, 8, 9, kEnd}, {1, 2, 3, kEnd}};
  const TokenShards marked = TokenShards::from_documents(kVocab, text, text);
  Batches batches(marked, config(4, 4, 4), StatePolicy::zero, 7);
  std::vector<int32_t> scored;
  for (int i = 0; i < 3; ++i)
    for (const Batch& batch : batches.next_step())
      for (int32_t target : batch.target)
        if (target >= 0) scored.push_back(target);
  for (int32_t target : {3, 4, 5, 6, 8, 9}) EXPECT_EQ(std::count(scored.begin(), scored.end(), target), 1) << target;
  EXPECT_EQ(std::count(scored.begin(), scored.end(), 2), 0);
}

TEST_F(BatchesTest, EvaluationReadsTheSameDocumentsInOrder) {
  RunDataConfig c = config(4, 8, 8);
  const auto batches = evaluation_batches(shards, Split::held_out, c, 1000, -1);
  std::vector<int32_t> ids;
  int64_t scored = 0;
  for (const Batch& batch : batches) {
    EXPECT_LE(batch.n_tokens(), 8);
    ids.insert(ids.end(), batch.ids.begin(), batch.ids.end());
    scored += batch.n_scored;
  }
  std::vector<int32_t> want;
  for (const auto& text : texts) want.insert(want.end(), text.begin(), text.end());
  EXPECT_EQ(ids, want);
  EXPECT_EQ(scored, 40 - 7);
}

TEST_F(BatchesTest, RefusesWhatDoesNotFit) {
  Batches batches(shards, config(8, 16, 8), StatePolicy::zero, -1);
  for (const char* position :
       {"", "{}", R"({"documents_taken":-1,"lanes":[[0,0,0],[0,0,0]]})", R"({"documents_taken":3,"lanes":[[0,0,0]]})",
        R"({"documents_taken":3,"lanes":[[0,0,0],[7,0,0]]})", R"({"documents_taken":3,"lanes":[[0,0,0],[1,4,0]]})",
        R"({"documents_taken":3,"lanes":[[0,0,0],[1,"x",0]]})"})
    EXPECT_THROW(batches.seek(position), FormatError) << position;
  EXPECT_THROW(Batches(shards, config(8, 16, 12), StatePolicy::zero, -1), InvalidArgument);
  const TokenShards none = TokenShards::from_documents(kVocab, {}, texts);
  EXPECT_THROW(Batches(none, config(8, 16, 8), StatePolicy::zero, -1), InvalidArgument);
}

}  // namespace
}  // namespace linnet::train
