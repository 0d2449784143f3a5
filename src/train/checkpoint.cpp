#include "train/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <type_traits>

#include "core/text.h"
#include "formats/atomic_file.h"
#include "formats/checkpoint_writer.h"
#include "formats/mapped_file.h"
#include "formats/safetensors_writer.h"
#include "train/tokenizer_files.h"

namespace linnet::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSaving = ".linnet-saving";
constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kTrainer = "trainer.json";
constexpr uint64_t kMaxShardBytes = 5'000'000'000;
constexpr size_t kMaxTrainerBytes = size_t{64} << 20;
constexpr int64_t kBlock = 1 << 18;  // elements converted at a time

void check(const CheckpointContents& c, const std::string& place) {
  if (c.step < 0) throw InvalidArgument(cat(place, ": step: expected none below 0, got ", c.step));
  if (!c.texts.count(kTrainer)) throw InvalidArgument(cat(place, ": texts: expected trainer.json among them"));
  for (const std::vector<NamedTensor>* list : {&c.model, &c.optimizer})
    for (const NamedTensor& t : *list) {
      const bool narrows = t.as == DType::bf16 || t.as == DType::f16;
      if (!t.data || !t.data.dense() || (t.as && *t.as != t.data.dtype && !(narrows && t.data.dtype == DType::f32)))
        throw InvalidArgument(cat(place, ": ", printable(t.name, 120), ": expected a dense tensor in ",
                                  t.as ? "f32 or its own type" : "memory", ", got ", text_of(t.data)));
    }
}

std::vector<formats::TensorSpec> specs_of(const std::vector<NamedTensor>& tensors) {
  std::vector<formats::TensorSpec> specs;
  for (const NamedTensor& t : tensors)
    specs.push_back({t.name, t.as.value_or(t.data.dtype), {t.data.dims().begin(), t.data.dims().end()}});
  return specs;
}

template <class Half, class Writer>
void append_rounded(const NamedTensor& t, Writer& writer) {
  std::vector<Half> block(static_cast<size_t>(std::min(kBlock, t.data.elements())));
  const float* from = t.data.as<float>();
  for (int64_t begin = 0; begin < t.data.elements(); begin += kBlock) {
    const auto n = static_cast<size_t>(std::min(kBlock, t.data.elements() - begin));
    for (size_t i = 0; i < n; ++i) {
      if constexpr (std::is_same_v<Half, bf16>) block[i] = to_bf16(from[begin + static_cast<int64_t>(i)]);
      else block[i] = to_f16(from[begin + static_cast<int64_t>(i)]);
    }
    writer.append(t.name, std::as_bytes(std::span(block).first(n)));
  }
}

template <class Writer>
void append_all(const std::vector<NamedTensor>& tensors, Writer& writer) {
  for (const NamedTensor& t : tensors) {
    const DType as = t.as.value_or(t.data.dtype);
    if (as == t.data.dtype) writer.append(t.name, {t.data.data, static_cast<size_t>(t.data.bytes())});
    else if (as == DType::bf16) append_rounded<bf16>(t, writer);
    else append_rounded<f16>(t, writer);
  }
}

void write_file(const fs::path& path, std::span<const std::byte> bytes) {
  formats::AtomicFile file(path);
  file.append(bytes);
  file.commit();
}

void write_all(const CheckpointContents& c, const fs::path& to) {
  // Both take their disk space before either is filled.
  formats::CheckpointWriter model(to, specs_of(c.model), kMaxShardBytes);
  formats::SafetensorsWriter optimizer(to / kOptimizer, specs_of(c.optimizer), {});
  if (!c.tokenizer_folder.empty()) copy_tokenizer_files(c.tokenizer_folder, to);
  for (const auto& [name, text] : c.texts) write_file(to / name, std::as_bytes(std::span(text)));
  append_all(c.model, model);
  append_all(c.optimizer, optimizer);
  model.commit();
  optimizer.commit();
}

}  // namespace

fs::path save_checkpoint(const RunFolder& folder, const CheckpointContents& contents, int64_t keep) {
  const fs::path target = folder.path() / checkpoint_name(contents.step), saving = folder.path() / kSaving;
  check(contents, target.string());
  std::error_code ignored;
  try {
    fs::remove_all(saving, ignored);
    write_all(contents, saving);
    put_in_place(folder, saving, contents.step);
  } catch (const IoError& e) {
    fs::remove_all(saving, ignored);
    const auto latest = latest_checkpoint(folder.path());
    throw CheckpointNotWritten(
        cat(target.string(), ": not written, ",
            latest ? cat("the latest is still ", latest->path.filename().string()) : "and there is no earlier one",
            ": ", e.what()));
  } catch (...) {
    fs::remove_all(saving, ignored);
    throw;
  }
  remove_old_checkpoints(folder, contents.step, keep);
  return target;
}

LoadedCheckpoint load_checkpoint(const SavedCheckpoint& saved) {
  return {saved.path, saved.step, formats::read_text_file(saved.path / kTrainer, kMaxTrainerBytes),
          formats::Checkpoint::open(saved.path), formats::Checkpoint::open(saved.path / kOptimizer)};
}

void read_tensor(const formats::Checkpoint& file, std::string_view name, const Tensor& to) {
  const std::optional<ConstTensor> from = file.find(name);
  const ConstTensor want = to;
  if (!from) throw FormatError(cat(file.place(name), ": expected ", text_of(want), ", got nothing"));
  if (from->dtype != want.dtype ||
      !std::equal(from->dims().begin(), from->dims().end(), want.dims().begin(), want.dims().end()))
    throw FormatError(cat(file.place(name), ": expected ", text_of(want), ", got ", text_of(*from)));
  if (from->bytes() > 0) std::memcpy(to.data, from->data, static_cast<size_t>(from->bytes()));
}

}  // namespace linnet::train
