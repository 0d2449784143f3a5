// For tests of models: the golden checkpoint, and copies of it with one change.
#pragma once

#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/checkpoint_writer.h"

namespace linnet::model {

inline const std::filesystem::path kGoldenFolder = std::filesystem::path(LINNET_SOURCE_DIR) / "tests/data/tiny-fp32";

struct Edit {
  std::string drop;                                  // leave this tensor out
  std::vector<formats::TensorSpec> add;              // zeros of these
  std::function<void(formats::TensorSpec&)> change;  // of each spec; the data is cut or zero-extended to it
  std::function<void(const std::string&, std::vector<std::byte>&)> data;
  DType convert = DType::f32;  // of every matrix
  uint64_t max_shard_bytes = UINT64_MAX;
};

inline void write_edited(const std::filesystem::path& folder, const Edit& edit) {
  const formats::Checkpoint from = formats::Checkpoint::open(kGoldenFolder);
  std::vector<formats::TensorSpec> specs;
  for (const std::string& name : from.names()) {
    if (name == edit.drop) continue;
    const ConstTensor t = *from.find(name);
    formats::TensorSpec spec{name, t.rank == 2 ? edit.convert : t.dtype, {t.dims().begin(), t.dims().end()}};
    if (edit.change) edit.change(spec);
    specs.push_back(spec);
  }
  specs.insert(specs.end(), edit.add.begin(), edit.add.end());
  formats::CheckpointWriter writer(folder, specs, edit.max_shard_bytes);
  for (const formats::TensorSpec& spec : specs) {
    std::vector<std::byte> bytes(static_cast<size_t>(*formats::bytes_of(spec.dtype, spec.shape)));
    if (const std::optional<ConstTensor> t = from.find(spec.name)) {
      const size_t n =
          std::min(bytes.size() / static_cast<size_t>(size_of(spec.dtype)), static_cast<size_t>(t->elements()));
      for (size_t i = 0; i < n; ++i) {
        const float x = t->as<float>()[i];
        if (spec.dtype == DType::f32) std::memcpy(&bytes[i * 4], &x, 4);
        if (spec.dtype == DType::bf16) reinterpret_cast<bf16*>(bytes.data())[i] = to_bf16(x);
        if (spec.dtype == DType::f16) reinterpret_cast<f16*>(bytes.data())[i] = to_f16(x);
      }
    }
    if (edit.data) edit.data(spec.name, bytes);
    writer.append(spec.name, bytes);
  }
  writer.commit();
  std::filesystem::copy_file(kGoldenFolder / "config.json", folder / "config.json");
}

}  // namespace linnet::model
