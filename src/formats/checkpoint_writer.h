// Writes a checkpoint: a folder of safetensors files under their published names.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/safetensors_writer.h"

namespace linnet::formats {

// model.safetensors when all data fits in max_shard_bytes; else model-00001-of-00020.safetensors ..., filled in the order of
// `tensors`, and model.safetensors.index.json. The folder is created; one that already holds a checkpoint is refused
// (InvalidArgument), because two would mix. The disk space is taken at the start, the index appears last, and without
// commit() nothing is left.
class CheckpointWriter {
 public:
  CheckpointWriter(const std::filesystem::path& folder, const std::vector<TensorSpec>& tensors,
                   uint64_t max_shard_bytes, const Metadata& metadata = {{"format", "pt"}});
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  void append(std::string_view name, std::span<const std::byte> data);                     // as in SafetensorsWriter
  void write_at(std::string_view name, uint64_t offset, std::span<const std::byte> data);  // as in SafetensorsWriter
  void commit();

 private:
  struct Shard {
    std::filesystem::path path;
    std::unique_ptr<SafetensorsWriter> writer;
    bool in_place = false;  // has its name
  };
  SafetensorsWriter& writer_of(std::string_view name);
  std::string index_json() const;

  struct Folder {  // created; removed again unless there is something in it
    std::filesystem::path path;
    bool is_new;
    explicit Folder(const std::filesystem::path& path);
    ~Folder();
  };
  Folder folder_;
  bool committed_ = false;
  std::vector<Shard> shards_;
  std::map<std::string, size_t, std::less<>> shard_of_;  // by tensor
  int64_t total_bytes_ = 0;
};

}  // namespace linnet::formats
