// Batches: the tokens of a run in the order in which it reads them. Deterministic: what comes next is a pure function of the
// configuration and the position, which is small and can be saved.
//
// Rows of a step are lanes. A lane reads document after document, taking the next one of a shared shuffled order when it has
// finished the last; a document that does not fit in a row goes on in the same lane's row of the next step.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "train/token_shards.h"
#include "train/train_config.h"

namespace linnet::train {

// The packed tokens of one pass.
struct Batch {
  std::vector<int32_t> ids, target;      // [N]; target -1: not scored
  std::vector<int32_t> seq_start;        // [B + 1]
  std::vector<int32_t> attention_start;  // [B' + 1]; more bounds than seq_start when rows hold several segments
  struct Sequence {
    int64_t lane;
    bool continues;    // goes on where the lane's last row ended
    bool ends_row;     // its final state is what the lane's next row may go on from
    int64_t document;  // of the split, in which its first token lies
  };
  std::vector<Sequence> sequences;  // [B]
  int64_t n_scored = 0;

  int64_t n_tokens() const { return static_cast<int64_t>(ids.size()); }
};

class Batches {
 public:
  // Throws InvalidArgument when the split has no documents or loss_after names no token. marker: id of data.loss_after, or -1.
  Batches(const TokenShards& shards, const RunDataConfig& data, StatePolicy policy, int32_t marker);

  int64_t n_lanes() const { return static_cast<int64_t>(lanes_.size()); }
  std::vector<Batch> next_step();  // its micro-batches
  double epochs() const;           // documents taken over documents there are

  std::string position() const;          // JSON
  void seek(std::string_view position);  // throws FormatError for one that does not fit this data

 private:
  struct Lane {
    int64_t document = -1;  // of the split; -1: none yet
    int64_t offset = 0;     // tokens of it already read
    bool marked = false;    // the marker has been read
  };
  void fill_row(Lane& lane, int64_t lane_index, Batch& batch);
  void take_document(Lane& lane);
  int64_t document_at(int64_t position);

  const TokenShards& shards_;
  Split split_;
  Packing packing_;
  int64_t row_tokens_, segment_tokens_, rows_per_batch_;
  int32_t marker_;
  uint64_t seed_;
  std::vector<Lane> lanes_;
  int64_t taken_ = 0;  // documents so far, over all epochs
  int64_t epoch_ = -1;
  std::vector<int32_t> order_;  // of the documents in epoch_
};

// Documents of the held-out split from the first on, packed in rows of `row_tokens`, up to about `tokens`: the same every time.
std::vector<Batch> evaluation_batches(const TokenShards& shards, Split split, const RunDataConfig& data, int64_t tokens,
                                      int32_t marker);

}  // namespace linnet::train
