#include "train/batches.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/errors.h"
#include "core/rng.h"
#include "core/text.h"

namespace linnet::train {
namespace {

// Writes documents one after the other into a row.
class RowWriter {
 public:
  RowWriter(Batch& batch, int64_t lane, int32_t marker) : batch_(batch), lane_(lane), marker_(marker) {
    if (batch_.seq_start.empty()) batch_.seq_start.push_back(0), batch_.attention_start.push_back(0);
  }

  void begin_sequence(bool continues, int64_t document) {
    end_sequence(false);
    batch_.sequences.push_back({.lane = lane_, .continues = continues, .ends_row = false, .document = document});
    open_ = true;
  }

  // Tokens [offset, offset + n) of the document. The target of its last token is `after` (-1: none).
  void append(const DocumentTokens& tokens, int64_t offset, int64_t n, int32_t after, bool& marked) {
    for (int64_t i = offset; i < offset + n; ++i) {
      const int32_t id = tokens[i], next = i + 1 < tokens.size() ? tokens[i + 1] : after;
      marked = marked || id == marker_;
      const bool scored = next >= 0 && (marker_ < 0 || marked);
      batch_.ids.push_back(id);
      batch_.target.push_back(scored ? next : -1);
      batch_.n_scored += scored;
    }
  }

  // Full attention ends here although the recurrent state goes on.
  void end_segment() {
    if (batch_.attention_start.back() != here()) batch_.attention_start.push_back(here());
  }
  void end_row() { end_sequence(true); }

 private:
  int32_t here() const { return static_cast<int32_t>(batch_.ids.size()); }
  void end_sequence(bool ends_row) {
    if (!open_) return;
    batch_.sequences.back().ends_row = ends_row;
    batch_.seq_start.push_back(here());
    end_segment();
    open_ = false;
  }

  Batch& batch_;
  int64_t lane_;
  int32_t marker_;
  bool open_ = false;
};

}  // namespace

Batches::Batches(const TokenShards& shards, const RunDataConfig& data, StatePolicy policy, int32_t marker)
    : shards_(shards),
      split_(Split::train),
      packing_(data.packing),
      row_tokens_(data.sequence_tokens * (policy == StatePolicy::passed_with_gradient ? 2 : 1)),
      segment_tokens_(data.sequence_tokens),
      rows_per_batch_(data.micro_batch_tokens / row_tokens_),
      marker_(marker),
      seed_(static_cast<uint64_t>(data.shuffle_seed)),
      lanes_(static_cast<size_t>(data.batch_tokens / row_tokens_)) {
  if (shards.n_documents(split_) == 0)
    throw InvalidArgument(cat(shards.dir().string(), ": split ", name_of(split_), ": expected documents, got none"));
  if (data.micro_batch_tokens % row_tokens_ != 0 || data.batch_tokens % data.micro_batch_tokens != 0)
    throw InvalidArgument(cat("data.micro_batch_tokens: expected a multiple of ", row_tokens_, " that divides ",
                              data.batch_tokens, ", got ", data.micro_batch_tokens));
}

std::vector<Batch> Batches::next_step() {
  std::vector<Batch> batches;
  for (size_t lane = 0; lane < lanes_.size();) {
    Batch& batch = batches.emplace_back();
    for (int64_t row = 0; row < rows_per_batch_; ++row, ++lane)
      fill_row(lanes_[lane], static_cast<int64_t>(lane), batch);
  }
  return batches;
}

double Batches::epochs() const {
  return static_cast<double>(taken_) / static_cast<double>(shards_.n_documents(split_));
}

void Batches::fill_row(Lane& lane, int64_t lane_index, Batch& batch) {
  RowWriter row(batch, lane_index, marker_);
  const bool stream = packing_ == Packing::stream;
  const auto size = [&] { return shards_.document(split_, lane.document).size(); };
  const bool has_more = lane.document >= 0 && lane.offset < size();
  const bool continues = has_more || (stream && lane.document >= 0);
  if (!has_more) take_document(lane);
  row.begin_sequence(continues, lane.document);
  for (int64_t done = 0; done < row_tokens_;) {
    const DocumentTokens tokens = shards_.document(split_, lane.document);
    const int64_t segment_left = segment_tokens_ - done % segment_tokens_;
    const int64_t n = std::min(tokens.size() - lane.offset, segment_left);
    const int64_t offset = lane.offset;
    const bool finishes = offset + n == tokens.size();
    bool marked = lane.marked;
    int32_t after = -1;
    lane.offset += n;
    if (finishes && (stream || done + n < row_tokens_)) take_document(lane);
    if (finishes && stream) after = shards_.document(split_, lane.document)[0];
    row.append(tokens, offset, n, after, marked);
    if (!finishes) lane.marked = marked;
    done += n;
    if (done == row_tokens_) break;
    if (finishes && !stream) row.begin_sequence(false, lane.document);
    else if (done % segment_tokens_ == 0) row.end_segment();
  }
  row.end_row();
}

void Batches::take_document(Lane& lane) { lane = {.document = document_at(taken_++), .offset = 0, .marked = false}; }

int64_t Batches::document_at(int64_t position) {
  const int64_t n = shards_.n_documents(split_);
  if (position / n != epoch_) {
    epoch_ = position / n;
    const Rng rng(seed_, static_cast<uint64_t>(epoch_));
    std::vector<uint64_t> key(static_cast<size_t>(n));
    for (size_t i = 0; i < key.size(); ++i) key[i] = rng.bits(i);
    order_.resize(key.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::sort(order_.begin(), order_.end(), [&](int32_t a, int32_t b) {
      const uint64_t ka = key[static_cast<size_t>(a)], kb = key[static_cast<size_t>(b)];
      return ka != kb ? ka < kb : a < b;
    });
  }
  return order_[static_cast<size_t>(position % n)];
}

std::string Batches::position() const {
  nlohmann::ordered_json json;
  json["documents_taken"] = taken_;
  for (const Lane& lane : lanes_) json["lanes"].push_back({lane.document, lane.offset, lane.marked ? 1 : 0});
  return json.dump();
}

void Batches::seek(std::string_view position) {
  const auto refuse = [&](const std::string& what) -> FormatError {
    return FormatError(cat("position in the data: ", what, " does not fit these shards"));
  };
  const nlohmann::json json = nlohmann::json::parse(position, nullptr, false);
  if (!json.is_object() || !json.contains("documents_taken") || !json["documents_taken"].is_number_integer() ||
      !json.contains("lanes") || !json["lanes"].is_array() || json["lanes"].size() != lanes_.size())
    throw refuse(cat("a text that is not ", lanes_.size(), " lanes"));
  const int64_t taken = json["documents_taken"].get<int64_t>(), n = shards_.n_documents(split_);
  if (taken < 0) throw refuse(cat("documents_taken ", taken));
  std::vector<Lane> lanes;
  for (const nlohmann::json& entry : json["lanes"]) {
    if (!entry.is_array() || entry.size() != 3 ||
        !std::all_of(entry.begin(), entry.end(), [](const auto& value) { return value.is_number_integer(); }))
      throw refuse("a lane that is not three whole numbers");
    const Lane lane{entry[0].get<int64_t>(), entry[1].get<int64_t>(), entry[2].get<int64_t>() != 0};
    if (lane.document < -1 || lane.document >= n || lane.offset < 0 ||
        (lane.document >= 0 && lane.offset > shards_.document(split_, lane.document).size()))
      throw refuse(cat("document ", lane.document, ", token ", lane.offset));
    lanes.push_back(lane);
  }
  taken_ = taken, lanes_ = std::move(lanes);
}

std::vector<Batch> evaluation_batches(const TokenShards& shards, Split split, const RunDataConfig& data, int64_t tokens,
                                      int32_t marker) {
  std::vector<Batch> batches;
  int64_t done = 0;
  for (int64_t document = 0; document < shards.n_documents(split) && done < tokens; ++document) {
    const DocumentTokens ids = shards.document(split, document);
    bool marked = false;
    for (int64_t at = 0; at < ids.size(); at += data.sequence_tokens) {
      const int64_t n = std::min(data.sequence_tokens, ids.size() - at);
      if (batches.empty() || batches.back().n_tokens() + n > data.micro_batch_tokens) batches.emplace_back();
      RowWriter row(batches.back(), 0, marker);
      row.begin_sequence(at > 0, document);
      row.append(ids, at, n, -1, marked);
      row.end_row();
      done += n;
    }
  }
  return batches;
}

}  // namespace linnet::train
