#include "model/synth.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/text.h"
#include "formats/atomic_file.h"
#include "formats/checkpoint_writer.h"
#include "formats/tokenizer_ranks.h"
#include "formats/tokenizer_specials.h"
#include "model/initialize.h"
#include "model/kimi_linear.h"

namespace linnet::model {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPiece = int64_t{1} << 20;  // elements drawn and written at a time: 2 MiB of bf16
constexpr int64_t kPiecesPerReport = 32;

struct Piece {
  const TensorRow* row;
  DType dtype;
  int64_t first, count;
};

DType file_dtype(const TensorRow& row, DType dtype) {
  const bool always_f32 = row.init == Init::a_log || row.init == Init::dt_bias || row.init == Init::zeros;
  return always_f32 ? DType::f32 : dtype;
}

int64_t elements_of(const TensorRow& row) {
  int64_t n = 1;
  for (int64_t d : row.shape) n *= d;
  return n;
}

void refuse_unless_new(const fs::path& dir) {
  std::error_code ignored;
  if (fs::exists(dir, ignored) && !fs::is_directory(dir, ignored))
    throw InvalidArgument(cat(dir.string(), ": expected a new or empty folder, got a file"));
  if (fs::is_directory(dir, ignored) && !fs::is_empty(dir, ignored))
    throw InvalidArgument(cat(dir.string(), ": expected a new or empty folder, got one with files in it"));
}

void require_space(const fs::path& dir, int64_t bytes) {
  fs::path existing = fs::absolute(dir);
  while (!fs::exists(existing) && existing.has_relative_path()) existing = existing.parent_path();
  std::error_code error;
  const fs::space_info space = fs::space(existing, error);
  if (!error && space.available < static_cast<uint64_t>(bytes))
    throw IoError(cat(dir.string(), ": expected ", bytes_text(static_cast<uint64_t>(bytes)),
                      " of free disk space, got ", bytes_text(space.available)));
}

// Files that go away again unless kept.
class SmallFiles {
 public:
  ~SmallFiles() {
    std::error_code ignored;
    for (const fs::path& path : paths_) fs::remove(path, ignored);
  }
  void write(const fs::path& path, std::string_view text) {
    formats::AtomicFile file(path);
    file.append(text);
    file.commit();
    paths_.push_back(path);
  }
  void add(const fs::path& path) { paths_.push_back(path); }
  void keep() { paths_.clear(); }

 private:
  std::vector<fs::path> paths_;
};

// The values of a piece in the file's type, in `bytes`.
void encode(const Piece& piece, float stddev, uint64_t seed, std::vector<float>& values,
            std::vector<std::byte>& bytes) {
  values.resize(static_cast<size_t>(piece.count));
  bytes.resize(static_cast<size_t>(piece.count * size_of(piece.dtype)));
  draw_values(*piece.row, stddev, seed, piece.first, values);
  if (piece.dtype == DType::f32) std::memcpy(bytes.data(), values.data(), bytes.size());
  bf16* as_bf16 = reinterpret_cast<bf16*>(bytes.data());
  f16* as_f16 = reinterpret_cast<f16*>(bytes.data());
  if (piece.dtype == DType::bf16)
    for (size_t i = 0; i < values.size(); ++i) as_bf16[i] = to_bf16(values[i]);
  if (piece.dtype == DType::f16)
    for (size_t i = 0; i < values.size(); ++i) as_f16[i] = to_f16(values[i]);
}

void write_pieces(std::span<const Piece> pieces, float stddev, uint64_t seed, formats::CheckpointWriter& writer,
                  ThreadPool& pool) {
  std::mutex mutex;
  std::exception_ptr failure;
  pool.parallel_for(static_cast<int64_t>(pieces.size()), 1, [&](int64_t begin, int64_t end, int) {
    thread_local std::vector<float> values;
    thread_local std::vector<std::byte> bytes;
    try {
      for (int64_t i = begin; i < end; ++i) {
        const Piece& piece = pieces[static_cast<size_t>(i)];
        encode(piece, stddev, seed, values, bytes);
        writer.write_at(piece.row->name, static_cast<uint64_t>(piece.first * size_of(piece.dtype)), bytes);
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
}

std::string generation_config_json(const ModelConfig& config) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (config.bos_id >= 0) json["bos_token_id"] = config.bos_id;
  if (config.eos_ids.size() == 1) json["eos_token_id"] = config.eos_ids[0];
  if (config.eos_ids.size() > 1) json["eos_token_id"] = config.eos_ids;
  if (config.pad_id >= 0) json["pad_token_id"] = config.pad_id;
  return json.dump(2) + "\n";
}

// The published vocabulary of 163,840 has 163,584 ranks and 256 rows for special tokens; a smaller one keeps at least the bytes.
constexpr int64_t kBytes = 256, kSpecialRows = 256;

}  // namespace

SynthResult write_synthetic_checkpoint(const fs::path& dir, const ModelConfig& config, const SynthOptions& options,
                                       ThreadPool& pool, const SynthProgress& progress) {
  refuse_unless_new(dir);
  const KimiLinear model(config, config.dtype == DType::f32 ? DType::f32 : DType::bf16);
  SynthResult result{.has_tokenizer = config.vocab_size >= kBytes};
  std::vector<formats::TensorSpec> specs;
  std::vector<Piece> pieces;
  for (const TensorRow& row : model.table().rows()) {
    const DType dtype = file_dtype(row, config.dtype);
    const int64_t n = elements_of(row);
    specs.push_back({row.name, dtype, row.shape});
    for (int64_t at = 0; at < n; at += kPiece) pieces.push_back({&row, dtype, at, std::min(kPiece, n - at)});
    ++result.n_tensors, result.n_parameters += n, result.n_bytes += n * size_of(dtype);
  }
  require_space(dir, result.n_bytes);

  formats::CheckpointWriter writer(dir, specs, options.max_shard_bytes);
  SmallFiles files;  // destroyed before the writer, which removes a folder that it made and that is empty
  int64_t written = 0;
  for (size_t at = 0; at < pieces.size(); at += kPiecesPerReport) {
    const auto batch = std::span(pieces).subspan(at, std::min<size_t>(kPiecesPerReport, pieces.size() - at));
    write_pieces(batch, config.initializer_range, options.seed, writer, pool);
    for (const Piece& piece : batch) written += piece.count * size_of(piece.dtype);
    if (progress) progress(written, result.n_bytes);
  }
  files.write(dir / "config.json", config_json(config));
  files.write(dir / "generation_config.json", generation_config_json(config));
  if (result.has_tokenizer) {
    const auto n_ranks = static_cast<int32_t>(std::max(kBytes, config.vocab_size - kSpecialRows));
    const fs::path ranks = dir / "tiktoken.model";
    formats::write_ranks_file(ranks, formats::letter_vocabulary(n_ranks));
    files.add(ranks);
  }
  writer.commit();
  files.keep();
  return result;
}

}  // namespace linnet::model
