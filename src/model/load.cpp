#include "model/load.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <set>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::model {
namespace {

// Shapes are compared without their extents of 1: A_log is [1, 1, H, 1] in one file and [H] in another.
std::vector<int64_t> without_ones(std::span<const int64_t> dims) {
  std::vector<int64_t> out;
  for (int64_t d : dims)
    if (d != 1) out.push_back(d);
  return out;
}

void widen(const ConstTensor& from, const Tensor& to) {
  float* out = to.as<float>();
  const int64_t n = from.elements();
  switch (from.dtype) {
    case DType::f32: std::memcpy(out, from.data, static_cast<size_t>(n) * sizeof(float)); break;
    case DType::bf16:
      for (int64_t i = 0; i < n; ++i) out[i] = to_f32(from.as<bf16>()[i]);
      break;
    default:
      for (int64_t i = 0; i < n; ++i) out[i] = to_f32(from.as<f16>()[i]);
      break;
  }
}

// The row's tensor and the name that the file gives it.
std::pair<std::string, ConstTensor> find_row(const formats::Checkpoint& checkpoint, const TensorRow& row) {
  std::string name = row.name;
  std::optional<ConstTensor> found = checkpoint.find(name);
  if (!found && !row.other_name.empty() && (found = checkpoint.find(row.other_name))) name = row.other_name;
  if (!found)
    throw FormatError(cat(checkpoint.place(row.name), ": expected ", shape_text(row.shape), ", got no such tensor"));
  if (found->dtype != DType::f32 && found->dtype != DType::bf16 && found->dtype != DType::f16)
    throw FormatError(cat(checkpoint.place(name), ": expected f32, bf16 or f16, got ", name_of(found->dtype)));
  if (without_ones(found->dims()) != without_ones(row.shape))
    throw FormatError(
        cat(checkpoint.place(name), ": expected ", shape_text(row.shape), ", got ", shape_text(found->dims())));
  return {std::move(name), *found};
}

void place_row(const formats::Checkpoint& checkpoint, const TensorRow& row, std::set<std::string>& used) {
  auto [name, found] = find_row(checkpoint, row);
  if (row.matrix) row.matrix->w = ConstTensor(found.data, found.dtype, {row.shape[0], row.shape[1]});
  else widen(found, row.f32);
  used.insert(std::move(name));
}

// Marks every exponent that is all ones: NaN or infinity. Returns the first such element of [begin, end), or end.
template <class Bits>
int64_t first_bad(const Bits* values, int64_t begin, int64_t end, Bits exponent) {
  constexpr int64_t kBlock = 4096;  // scanned without a branch inside
  for (int64_t at = begin; at < end; at += kBlock) {
    const int64_t stop = std::min(at + kBlock, end);
    unsigned bad = 0;
    for (int64_t i = at; i < stop; ++i) bad |= static_cast<Bits>(values[i] & exponent) == exponent;
    if (!bad) continue;
    while ((values[at] & exponent) != exponent) ++at;
    return at;
  }
  return end;
}

int64_t first_bad(const ConstTensor& t, int64_t begin, int64_t end) {
  if (t.dtype == DType::f32)
    return first_bad<uint32_t>(reinterpret_cast<const uint32_t*>(t.data), begin, end, 0x7f800000u);
  return first_bad<uint16_t>(reinterpret_cast<const uint16_t*>(t.data), begin, end,
                             t.dtype == DType::bf16 ? 0x7f80 : 0x7c00);
}

ConstTensor in_file(const formats::Checkpoint& checkpoint, const TensorRow& row) {
  const std::optional<ConstTensor> t = checkpoint.find(row.name);
  return t ? *t : *checkpoint.find(row.other_name);
}

// Hash of architecture, tensor names and types, and a sample of every tensor: enough to tell trained weights apart without reading
// them all.
std::string identity_of(const KimiLinear& model, const formats::Checkpoint& checkpoint, DType cache_dtype) {
  constexpr int64_t kSampleBytes = 256;
  XXH64_state_t* hash = XXH64_createState();
  XXH64_reset(hash, 0);
  const std::string architecture = cat(architecture_text(model.config()), " cache ", name_of(cache_dtype));
  XXH64_update(hash, architecture.data(), architecture.size());
  for (const TensorRow& row : model.table().rows()) {
    const ConstTensor t = in_file(checkpoint, row);
    const std::string head = cat(row.name, " ", name_of(t.dtype));
    const int64_t sample = std::min(t.bytes(), kSampleBytes);
    XXH64_update(hash, head.data(), head.size());
    XXH64_update(hash, t.data + (t.bytes() - sample) / 2, static_cast<size_t>(sample));
  }
  char text[24];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(XXH64_digest(hash)));
  XXH64_freeState(hash);
  return text;
}

// A head beside tied embeddings is a copy of them, for readers that do not tie.
void expect_tied(const formats::Checkpoint& checkpoint) {
  const std::optional<ConstTensor> head = checkpoint.find("lm_head.weight"),
                                   embed = checkpoint.find("model.embed_tokens.weight");
  if (head->dtype != embed->dtype || head->bytes() != embed->bytes() ||
      std::memcmp(head->data, embed->data, static_cast<size_t>(head->bytes())) != 0)
    throw FormatError(
        cat(checkpoint.place("lm_head.weight"),
            ": expected a copy of model.embed_tokens.weight (tie_word_embeddings is true), got other values"));
}

DType default_cache_dtype(const formats::Checkpoint& checkpoint) {
  const std::optional<ConstTensor> embed = checkpoint.find("model.embed_tokens.weight");
  return embed && embed->dtype == DType::f32 ? DType::f32 : DType::bf16;
}

}  // namespace

LoadedModel load_model(const std::filesystem::path& dir, const LoadOptions& options, ThreadPool& pool) {
  ModelConfig config = read_config(dir / "config.json");
  config.parity = options.parity;
  formats::Checkpoint checkpoint = formats::Checkpoint::open(dir);
  const DType cache_dtype = options.cache_dtype.value_or(default_cache_dtype(checkpoint));
  if (cache_dtype != DType::f32 && cache_dtype != DType::bf16)
    throw InvalidArgument(cat("latent cache: expected f32 or bf16, got ", name_of(cache_dtype)));
  auto model = std::make_unique<KimiLinear>(std::move(config), cache_dtype);
  std::set<std::string> used;
  for (const TensorRow& row : model->table().rows()) place_row(checkpoint, row, used);
  for (const std::string& name : checkpoint.names())
    if (name == "lm_head.weight" && model->config().tie_embeddings) expect_tied(checkpoint);
    else if (!used.contains(name))
      throw FormatError(cat(checkpoint.place(name), ": a tensor that this architecture does not have"));
  model->prepare();
  std::string identity = identity_of(*model, checkpoint, cache_dtype);
  LoadedModel loaded{std::move(checkpoint), std::move(model), std::move(identity), cache_dtype};
  if (options.check_values && static_cast<uint64_t>(loaded.checkpoint->total_bytes()) <= kCheckedBytes) {
    const std::string bad = find_bad_weight(loaded, pool, options.check_progress);
    if (!bad.empty()) throw FormatError(bad);
  }
  return loaded;
}

void copy_parameter(const formats::Checkpoint& checkpoint, const TensorRow& row, const Tensor& to) {
  widen(find_row(checkpoint, row).second, to);
}

std::string find_bad_weight(const LoadedModel& loaded, ThreadPool& pool, const CheckProgress& progress) {
  constexpr int64_t kGrain = int64_t{1} << 20;
  int64_t done = 0;
  for (const TensorRow& row : loaded.model->table().rows()) {
    const ConstTensor t = in_file(*loaded.checkpoint, row);
    std::atomic<int64_t> first{t.elements()};
    pool.parallel_for(t.elements(), kGrain, [&](int64_t begin, int64_t end, int) {
      const int64_t bad = first_bad(t, begin, end);
      if (bad == end) return;
      int64_t seen = first.load();
      while (bad < seen && !first.compare_exchange_weak(seen, bad)) {}
    });
    const int64_t at = first.load();
    if (progress) progress(done += t.bytes(), loaded.checkpoint->total_bytes());
    if (at == t.elements()) continue;
    const float value = t.dtype == DType::f32    ? t.as<float>()[at]
                        : t.dtype == DType::bf16 ? to_f32(t.as<bf16>()[at])
                                                 : to_f32(t.as<f16>()[at]);
    const std::string name = loaded.checkpoint->find(row.name) ? row.name : row.other_name;
    return cat(loaded.checkpoint->place(name), ": element ", at, ": expected a finite number, got ",
               std::isnan(value) ? "nan" : "infinity");
  }
  return {};
}

}  // namespace linnet::model
