#include "formats/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <mutex>
#include <set>
#include <unordered_map>

#include "core/arena.h"
#include "core/errors.h"
#include "core/text.h"
#include "formats/checkpoint_names.h"
#include "formats/json_fields.h"
#include "formats/mapped_file.h"
#include "formats/safetensors_header.h"

namespace linnet::formats {
namespace {

namespace fs = std::filesystem;

struct Shard {
  std::string name;  // of the file, without its folder
  MappedFile file;   // none when the bytes are someone else's
};

struct Located {
  std::string name;
  ConstTensor view;  // of the shard's bytes, aligned or not
  size_t shard = 0;
};

std::string shown(std::string_view name) { return printable(name, 120); }

}  // namespace

struct Checkpoint::State {
  std::string root;  // where an unknown name would have been: the index, or the only file
  std::vector<Shard> shards;
  std::vector<Located> tensors;  // by name
  std::vector<std::string> names;
  Metadata metadata;
  int64_t total_bytes = 0;

  mutable std::mutex copying;
  mutable std::unordered_map<const std::byte*, Buffer> copies;  // of the tensors that are not aligned

  void add_shard(Shard shard, std::span<const std::byte> bytes, std::string_view shard_place) {
    SafetensorsHeader header = parse_safetensors_header(bytes, shard_place);
    for (SafetensorsHeader::Entry& entry : header.tensors) {
      const ConstTensor view = view_of(bytes.data() + entry.begin, entry.spec.dtype, entry.spec.shape);
      total_bytes += view.bytes();
      tensors.push_back({std::move(entry.spec.name), view, shards.size()});
    }
    metadata.merge(header.metadata);
    shards.push_back(std::move(shard));
  }

  void map_shard(const fs::path& path) {
    MappedFile file(path);
    const std::span<const std::byte> bytes = file.bytes();
    add_shard({path.filename().string(), std::move(file)}, bytes, path.string());
  }

  // After the last shard.
  void sort() {
    std::sort(tensors.begin(), tensors.end(), [](const Located& a, const Located& b) { return a.name < b.name; });
    names.reserve(tensors.size());
    for (const Located& tensor : tensors) names.push_back(tensor.name);
  }

  const Located* find(std::string_view name) const {
    const auto it = std::lower_bound(names.begin(), names.end(), name);
    return it == names.end() || *it != name ? nullptr : &tensors[static_cast<size_t>(it - names.begin())];
  }

  const MappedFile* mapping_of(const std::byte* data) const {
    for (const Shard& shard : shards) {
      const std::span<const std::byte> bytes = shard.file.bytes();
      if (std::less_equal<>()(bytes.data(), data) && std::less<>()(data, bytes.data() + bytes.size()))
        return &shard.file;
    }
    return nullptr;
  }
};

namespace {

struct Promise {
  std::string name, shard;
};

// The index's weight_map, by name. Its metadata.total_size is not used: writers count it differently.
std::vector<Promise> read_weight_map(const fs::path& index) {
  const JsonFields map = JsonFields::read(index).object("weight_map");
  std::vector<Promise> promises;
  for (std::string& name : map.keys()) {
    std::string shard = map.string(name);
    if (shard.empty() || shard == "." || shard == ".." || shard.find('/') != shard.npos)
      throw map.error(name, "the name of a file in the same folder");
    promises.push_back({std::move(name), std::move(shard)});
  }
  return promises;
}

// The index and the shards name the same tensors at the same places.
void check_promises(const std::vector<Promise>& promises, const std::vector<Located>& tensors,
                    const std::vector<Shard>& shards, const fs::path& index) {
  const auto refuse = [&](std::string_view name, auto... what) {
    throw FormatError(cat(index.string(), ": weight_map: ", shown(name), ": ", what...));
  };
  for (size_t i = 1; i < tensors.size(); ++i)
    if (tensors[i].name == tensors[i - 1].name)
      refuse(tensors[i].name, "expected it in one shard, got it in ", shards[tensors[i - 1].shard].name, " and ",
             shards[tensors[i].shard].name);
  auto tensor = tensors.begin();
  for (const Promise& promise : promises) {
    if (tensor == tensors.end() || tensor->name > promise.name)
      refuse(promise.name, "expected in ", shown(promise.shard), ", which has no such tensor");
    if (tensor->name < promise.name) break;
    if (shards[tensor->shard].name != promise.shard)
      refuse(promise.name, "expected in ", shown(promise.shard), ", got it in ", shards[tensor->shard].name);
    ++tensor;
  }
  if (tensor != tensors.end())
    refuse(tensor->name, "expected an entry for this tensor of ", shards[tensor->shard].name, ", got none");
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& folder_or_file) {
  fs::path file = folder_or_file;
  std::error_code ignored;  // what cannot be looked at cannot be opened either: that error is the better one
  if (fs::is_directory(file, ignored)) {
    const bool single = fs::exists(file / kSingleName, ignored), index = fs::exists(file / kIndexName, ignored);
    if (single == index)
      throw FormatError(
          cat(file.string(), ": expected ", kSingleName, " or ", kIndexName, ", got ", single ? "both" : "neither"));
    file /= single ? kSingleName : kIndexName;
  }
  auto state = std::make_shared<State>();
  state->root = file.filename().string();
  if (!state->root.ends_with(".json")) {
    state->map_shard(file);
    state->sort();
    return Checkpoint(std::move(state));
  }
  const std::vector<Promise> promises = read_weight_map(file);
  std::set<std::string> shards;
  for (const Promise& promise : promises) shards.insert(promise.shard);
  for (const std::string& shard : shards) state->map_shard(file.parent_path() / shard);
  state->sort();
  check_promises(promises, state->tensors, state->shards, file);
  return Checkpoint(std::move(state));
}

Checkpoint Checkpoint::from_memory(std::span<const std::byte> file, std::string place) {
  auto state = std::make_shared<State>();
  state->add_shard({place, {}}, file, place);
  state->root = std::move(place);
  state->sort();
  return Checkpoint(std::move(state));
}

const std::vector<std::string>& Checkpoint::names() const { return state_->names; }
const Metadata& Checkpoint::metadata() const { return state_->metadata; }
int64_t Checkpoint::total_bytes() const { return state_->total_bytes; }

std::optional<ConstTensor> Checkpoint::find(std::string_view name) const {
  const Located* tensor = state_->find(name);
  if (!tensor) return std::nullopt;
  ConstTensor view = tensor->view;
  if (reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(size_of(view.dtype)) == 0) return view;
  const std::lock_guard lock(state_->copying);
  Buffer& copy = state_->copies[view.data];
  if (view.bytes() > 0 && copy.size() == 0) {
    copy = Buffer(static_cast<size_t>(view.bytes()));
    std::memcpy(copy.data(), view.data, copy.size());
  }
  view.data = copy.data();
  return view;
}

std::string Checkpoint::place(std::string_view name) const {
  const Located* tensor = state_->find(name);
  return cat(tensor ? state_->shards[tensor->shard].name : state_->root, ": ", shown(name));
}

void Checkpoint::prefetch(const ConstTensor& view) const noexcept {
  if (const MappedFile* file = state_->mapping_of(view.data))
    file->prefetch({view.data, static_cast<size_t>(view.bytes())});
}

void Checkpoint::release(const ConstTensor& view) const noexcept {
  if (const MappedFile* file = state_->mapping_of(view.data))
    file->release({view.data, static_cast<size_t>(view.bytes())});
}

}  // namespace linnet::formats
