// Checkpoint: the tensors of a folder or file in the safetensors format, read without copying.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "formats/tensor_spec.h"

namespace linnet::formats {

// Copies share the mappings. Views stay valid while any copy lives. All members may be called from several threads.
class Checkpoint {
 public:
  // A folder that holds either model.safetensors or model.safetensors.index.json with its shards; or one *.safetensors file; or
  // one *.index.json. Everything is checked here, headers and index against each other and against the files' sizes;
  // tensor data is not touched. Throws IoError, FormatError.
  static Checkpoint open(const std::filesystem::path& folder_or_file);

  // One file that is already in memory, and stays there. `place` begins the messages.
  static Checkpoint from_memory(std::span<const std::byte> file, std::string place);

  const std::vector<std::string>& names() const;  // sorted
  const Metadata& metadata() const;               // of all shards; the first shard that has a key decides
  int64_t total_bytes() const;                    // of tensor data

  // A view of the mapping, or nothing. A tensor whose bytes are not aligned for its type is copied to owned memory when
  // first asked for; no alignment beyond that of the element is promised. A tensor of shape [] has shape [1] here.
  std::optional<ConstTensor> find(std::string_view name) const;

  // "model-00001-of-00002.safetensors: model.norm.weight", for messages; an unknown name is placed in the index or only file.
  std::string place(std::string_view name) const;

  // Hints about the pages behind a view that find() gave: read them ahead; or give their memory back (they stay readable).
  void prefetch(const ConstTensor& view) const noexcept;
  void release(const ConstTensor& view) const noexcept;

 private:
  struct State;
  explicit Checkpoint(std::shared_ptr<State> state) : state_(std::move(state)) {}

  std::shared_ptr<const State> state_;
};

}  // namespace linnet::formats
