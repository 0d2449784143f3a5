#include "formats/safetensors_writer.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/arena.h"
#include "core/errors.h"
#include "core/text.h"
#include "formats/safetensors_header.h"

namespace linnet::formats {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

// Wider elements first: with a 64-byte aligned start and no gaps, each tensor is then aligned for its type.
std::vector<const TensorSpec*> file_order(const std::vector<TensorSpec>& tensors) {
  std::vector<const TensorSpec*> order;
  for (const TensorSpec& spec : tensors) order.push_back(&spec);
  std::stable_sort(order.begin(), order.end(),
                   [](const TensorSpec* a, const TensorSpec* b) { return size_of(a->dtype) > size_of(b->dtype); });
  return order;
}

std::string dumped(const ordered_json& value, const fs::path& path) try {
  return value.dump();
} catch (const ordered_json::exception&) {
  throw InvalidArgument(cat(path.string(), ": expected names and metadata in UTF-8"));
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const fs::path& path, const std::vector<TensorSpec>& tensors,
                                     const Metadata& metadata)
    : file_(path) {
  expect_writable(tensors, path.string());
  ordered_json::object_t header;  // a vector of pairs: emplace_back, because finding a key is linear
  if (!metadata.empty()) header.emplace_back("__metadata__", metadata);
  uint64_t data_bytes = 0;
  for (const TensorSpec* spec : file_order(tensors)) {
    Slot& slot = slots_[spec->name];
    slot.begin = data_bytes;
    slot.bytes = static_cast<uint64_t>(*bytes_of(spec->dtype, spec->shape));
    data_bytes += slot.bytes;
    header.emplace_back(spec->name, ordered_json{{"dtype", file_name_of(spec->dtype)},
                                                 {"shape", spec->shape},
                                                 {"data_offsets", {slot.begin, data_bytes}}});
  }
  std::string text = dumped(std::move(header), path);
  text.resize(aligned_size(8 + text.size()) - 8, ' ');
  const uint64_t header_bytes = text.size();
  if (header_bytes > kMaxSafetensorsHeaderBytes)
    throw InvalidArgument(cat(path.string(), ": expected a header of at most ", kMaxSafetensorsHeaderBytes,
                              " bytes, got ", header_bytes));
  const uint64_t data_begin = 8 + header_bytes;
  for (auto& [name, slot] : slots_) slot.begin += data_begin;
  file_.reserve(data_begin + data_bytes);
  file_.append(std::as_bytes(std::span(&header_bytes, 1)));
  file_.append(text);
}

SafetensorsWriter::Slot& SafetensorsWriter::slot_of(std::string_view name) {
  const auto it = slots_.find(name);
  if (it == slots_.end())
    throw InvalidArgument(cat(file_.path().string(), ": ", printable(name, 120), ": expected a declared tensor"));
  return it->second;
}

void SafetensorsWriter::append(std::string_view name, std::span<const std::byte> data) {
  write_at(name, slot_of(name).written, data);
}

void SafetensorsWriter::write_at(std::string_view name, uint64_t offset, std::span<const std::byte> data) {
  Slot& slot = slot_of(name);
  if (offset > slot.bytes || data.size() > slot.bytes - offset)
    throw InvalidArgument(cat(file_.path().string(), ": ", printable(name, 120), ": expected bytes inside [0, ",
                              slot.bytes, "], got [", offset, ", ", offset + data.size(), "]"));
  file_.write_at(slot.begin + offset, data);
  slot.written += data.size();
}

void SafetensorsWriter::commit() {
  for (const auto& [name, slot] : slots_)
    if (slot.written != slot.bytes)
      throw InvalidArgument(cat(file_.path().string(), ": ", printable(name, 120), ": expected ", slot.bytes,
                                " bytes, got ", slot.written.load()));
  file_.commit();
}

}  // namespace linnet::formats
