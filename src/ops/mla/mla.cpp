// Multi-head latent attention: validation, the choice between the two ways, and the table of variants.
#include "ops/mla/mla.h"

#include "ops/mla/mla_simd.h"

namespace linnet::ops {
namespace {

constexpr const char* kOp = "mla";

// Flop per head of n_new queries that see n_past tokens and each other. Both ways pass every query-key pair once; the
// absorbed way multiplies each query by kv_b, the expanded way each key.
bool absorbed_is_cheaper(const MlaArgs& a, int64_t n_past, int64_t n_new) {
  const double q = static_cast<double>(n_new), keys = static_cast<double>(n_past + n_new);
  const double pairs = q * (keys - (q - 1) / 2), kv_b = 2.0 * static_cast<double>(a.R * (a.Dn + a.Dv));
  const double absorbed = pairs * static_cast<double>(2 * (a.R + a.Dr) + 2 * a.R) + q * kv_b;
  const double expanded = pairs * static_cast<double>(2 * (a.Dn + a.Dr) + 2 * a.Dv) + keys * kv_b;
  return absorbed < expanded;
}

// by_block: of a sequence that has been divided.
bool takes_absorbed(const MlaArgs& a, MlaForm form, int64_t b) {
  const int32_t* start = a.seq_start.as<int32_t>();
  const int64_t n_past = a.seqs[b].n_past, n_new = start[b + 1] - start[b];
  switch (form) {
    case MlaForm::absorbed: return true;
    case MlaForm::expanded: return false;
    case MlaForm::by_block: return (n_past + n_new) % kMlaBlock != 0 && absorbed_is_cheaper(a, n_past, n_new);
    case MlaForm::by_cost: break;
  }
  return absorbed_is_cheaper(a, n_past, n_new);
}

// Each sequence as two: up to its last multiple of kMlaBlock positions, and behind it.
MlaArgs divided(MlaArgs a, Workspace& memory) {
  const int64_t B = a.seq_start[0] - 1;
  const int32_t* start = a.seq_start.as<int32_t>();
  const Tensor starts = memory.tensor<int32_t>({2 * B + 1});
  MlaSequence* seqs = memory.take<MlaSequence>(2 * B);
  starts.as<int32_t>()[0] = 0;
  for (int64_t b = 0; b < B; ++b) {
    const int64_t end = a.seqs[b].n_past + start[b + 1] - start[b],
                  cut = std::max(end / kMlaBlock * kMlaBlock, a.seqs[b].n_past);
    seqs[2 * b] = seqs[2 * b + 1] = a.seqs[b];
    seqs[2 * b + 1].n_past = cut;
    starts.as<int32_t>()[2 * b + 1] = start[b + 1] - static_cast<int32_t>(end - cut);
    starts.as<int32_t>()[2 * b + 2] = start[b + 1];
  }
  a.seq_start = starts, a.seqs = seqs;
  return a;
}

// Neighbours of one way run together, with the empty sequences among them: a pass over kv_b serves all of them.
template <MlaForm fixed>
void run(const MlaArgs& args, const Exec& exec) noexcept {
  const MlaForm form = fixed == MlaForm::by_cost ? args.form : fixed;
  const Workspace::Scope scope(exec.workspace);
  const MlaArgs a = form == MlaForm::by_block ? divided(args, exec.workspace) : args;
  const int32_t* start = a.seq_start.as<int32_t>();
  const int64_t B = a.seq_start[0] - 1;
  for (int64_t b = 0, end; b < B; b = end) {
    const bool absorbed = takes_absorbed(a, form, b);
    for (end = b + 1; end < B && (start[end] == start[end + 1] || takes_absorbed(a, form, end) == absorbed);) ++end;
    if (absorbed) mla_absorbed(a, start[b], start[end], exec);
    else mla_expanded(a, b, end, exec);
  }
}

size_t either_workspace(const MlaArgs& a, int n_threads) {
  const auto B = static_cast<size_t>(std::max<int64_t>(a.seq_start[0] - 1, 0));
  return std::max(mla_absorbed_workspace(a, n_threads), mla_expanded_workspace(a, n_threads)) +
         aligned_size((2 * B + 1) * sizeof(int32_t)) + aligned_size(2 * B * sizeof(MlaSequence));
}

// The first is always chosen; the other two hold one way fixed, for tests and benchmarks.
constexpr Variant<MlaArgs> kVariants[] = {
    {"simd", Isa::baseline, no_refusal, either_workspace, run<MlaForm::by_cost>},
    {"simd_absorbed", Isa::baseline, no_refusal, mla_absorbed_workspace, run<MlaForm::absorbed>},
    {"simd_expanded", Isa::baseline, no_refusal, mla_expanded_workspace, run<MlaForm::expanded>}};

void expect_extent(const char* name, int64_t value, int64_t least) {
  if (value < least) throw InvalidArgument(cat(kOp, ": ", name, ": expected at least ", least, ", got ", value));
}

void expect_sequences(const MlaArgs& a) {
  expect_tensor(kOp, "seq_start", a.seq_start, DType::i32, {-1});
  const int64_t B = a.seq_start[0] - 1, N = a.q[0];
  const int32_t* start = a.seq_start.as<int32_t>();
  if (B < 0 || start[0] != 0 || start[B] != N)
    throw InvalidArgument(cat(kOp, ": seq_start: expected offsets from 0 to ", N, ", got ", text_of(a.seq_start),
                              B < 0 ? "" : cat(" from ", start[0], " to ", start[B])));
  if (B > 0 && !a.seqs) throw InvalidArgument(cat(kOp, ": seqs: expected ", B, ", got none"));
  for (int64_t b = 0; b < B; ++b) {
    if (start[b] > start[b + 1])
      throw InvalidArgument(cat(kOp, ": seq_start[", b + 1, "]: expected at least ", start[b], ", got ", start[b + 1]));
    if (a.seqs[b].n_past < 0)
      throw InvalidArgument(cat(kOp, ": seqs[", b, "].n_past: expected at least 0, got ", a.seqs[b].n_past));
    const int64_t blocks = start[b] < start[b + 1] ? mla_blocks(a.seqs[b].n_past + start[b + 1] - start[b]) : 0;
    for (int64_t i = 0; i < blocks; ++i)
      if (!a.seqs[b].blocks || !a.seqs[b].blocks[i])
        throw InvalidArgument(cat(kOp, ": seqs[", b, "].blocks: expected ", blocks, ", got none at ", i));
  }
}

}  // namespace

std::span<const Variant<MlaArgs>> mla_variants() { return kVariants; }

Plan<MlaArgs> plan_mla(const MlaArgs& a, Isa isa) {
  expect_extent("R", a.R, 1), expect_extent("Dn", a.Dn, 1), expect_extent("Dr", a.Dr, 0), expect_extent("Dv", a.Dv, 1);
  expect_tensor(kOp, "q", a.q, DType::f32, {-1, -1, a.Dn + a.Dr});
  const int64_t N = a.q[0], H = a.q[1];
  expect_extent("heads of q", H, 1);
  const DType type = a.kv_b.dtype;
  if (type != DType::f32 && type != DType::bf16 && type != DType::f16)
    throw InvalidArgument(cat(kOp, ": kv_b: expected f32, bf16 or f16, got ", text_of(a.kv_b)));
  expect_tensor(kOp, "kv_b", a.kv_b, type, {H * (a.Dn + a.Dv), a.R});
  if (!a.kv_b.dense())
    throw InvalidArgument(cat(kOp, ": kv_b: expected dense rows, got row stride ", a.kv_b.row_stride));
  if (a.cache_dtype != DType::f32 && a.cache_dtype != DType::bf16)
    throw InvalidArgument(cat(kOp, ": cache_dtype: expected f32 or bf16, got ", name_of(a.cache_dtype)));
  expect_tensor(kOp, "out", a.out, DType::f32, {N, H, a.Dv});
  expect_sequences(a);
  return choose_variant<MlaArgs>(kOp, kVariants, a, isa);
}

}  // namespace linnet::ops
