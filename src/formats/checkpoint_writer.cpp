#include "formats/checkpoint_writer.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/text.h"
#include "formats/checkpoint_names.h"
#include "formats/posix_file.h"

namespace linnet::formats {
namespace {

namespace fs = std::filesystem;

// Consecutive tensors up to max_bytes; a tensor beyond that has a shard of its own.
std::vector<std::vector<TensorSpec>> split(const std::vector<TensorSpec>& tensors, uint64_t max_bytes) {
  std::vector<std::vector<TensorSpec>> shards(1);
  uint64_t filled = 0;
  for (const TensorSpec& spec : tensors) {
    const auto bytes = static_cast<uint64_t>(*bytes_of(spec.dtype, spec.shape));
    if (!shards.back().empty() && filled + bytes > max_bytes) shards.emplace_back(), filled = 0;
    shards.back().push_back(spec);
    filled += bytes;
  }
  return shards;
}

std::string shard_name(size_t i, size_t n) {
  if (n == 1) return kSingleName;
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, n);
  return name;
}

}  // namespace

CheckpointWriter::Folder::Folder(const fs::path& where) : path(where) {
  for (const char* name : {kSingleName, kIndexName})
    if (std::error_code ignored; fs::exists(path / name, ignored))
      throw InvalidArgument(cat(path.string(), ": expected a folder without a checkpoint, got one with ", name));
  std::error_code error;
  is_new = fs::create_directories(path, error);
  if (error) throw_io_error(path, "cannot create the folder", error.value());
}

CheckpointWriter::Folder::~Folder() {
  std::error_code not_empty;
  if (is_new) fs::remove(path, not_empty);
}

CheckpointWriter::CheckpointWriter(const fs::path& folder, const std::vector<TensorSpec>& tensors,
                                   uint64_t max_shard_bytes, const Metadata& metadata)
    : folder_(folder) {
  expect_writable(tensors, folder.string());
  const std::vector<std::vector<TensorSpec>> shards = split(tensors, max_shard_bytes);
  for (size_t i = 0; i < shards.size(); ++i) {
    const fs::path path = folder / shard_name(i, shards.size());
    shards_.push_back({path, std::make_unique<SafetensorsWriter>(path, shards[i], metadata)});
    for (const TensorSpec& spec : shards[i]) {
      total_bytes_ += *bytes_of(spec.dtype, spec.shape);
      shard_of_.emplace(spec.name, i);
    }
  }
}

CheckpointWriter::~CheckpointWriter() {
  if (committed_) return;
  std::error_code ignored;
  for (Shard& shard : shards_) {
    shard.writer.reset();
    if (shard.in_place) fs::remove(shard.path, ignored);
  }
}

SafetensorsWriter& CheckpointWriter::writer_of(std::string_view name) {
  const auto it = shard_of_.find(name);
  if (it == shard_of_.end())
    throw InvalidArgument(cat(folder_.path.string(), ": ", printable(name, 120), ": expected a declared tensor"));
  return *shards_[it->second].writer;
}

void CheckpointWriter::append(std::string_view name, std::span<const std::byte> data) {
  writer_of(name).append(name, data);
}

void CheckpointWriter::write_at(std::string_view name, uint64_t offset, std::span<const std::byte> data) {
  writer_of(name).write_at(name, offset, data);
}

std::string CheckpointWriter::index_json() const {
  nlohmann::ordered_json index = {{"metadata", {{"total_size", total_bytes_}}},
                                  {"weight_map", nlohmann::ordered_json::object()}};
  auto& map = index["weight_map"].get_ref<nlohmann::ordered_json::object_t&>();
  for (const auto& [name, shard] : shard_of_) map.emplace_back(name, shards_[shard].path.filename().string());
  return index.dump(2) + "\n";
}

void CheckpointWriter::commit() {
  for (Shard& shard : shards_) {
    shard.writer->commit();
    shard.in_place = true;
  }
  if (shards_.size() > 1) {
    AtomicFile index(folder_.path / kIndexName);
    index.append(index_json());
    index.commit();
  }
  committed_ = true;
}

}  // namespace linnet::formats
