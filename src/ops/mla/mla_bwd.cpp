// Gradient of latent attention: validation, how a batch is cut into blocks, and the order of the work.
#include "ops/mla/mla_bwd.h"

#include <memory>
#include <vector>

#include "ops/gemm/gemm_bwd.h"
#include "ops/mla/mla_simd_bwd.h"

namespace linnet::ops {
namespace {

constexpr const char* kOp = "mla_bwd";

// Floats of keys and values that a block may expand, 64 MiB, as long as its one sequence does not need more for
// kLeastHeads heads: sequences and heads are what runs in parallel.
constexpr int64_t kBlockFloats = int64_t{1} << 24;
constexpr int64_t kLeastHeads = 8;

int64_t row_floats(const MlaBwdArgs& a) { return padded_row(a.Dn + a.Dv); }

// Most (head, token) rows of a block.
int64_t block_rows(const MlaBwdArgs& a) {
  const int64_t N = a.q[0], H = a.q[1];
  return std::min(N * H, std::max(kBlockFloats / row_floats(a), N * std::min(H, kLeastHeads)));
}

struct Task {
  int32_t sequence, head;
};

// A block, and the batch's scratch.
struct Work : MlaBwdBlock {
  int64_t sequence, sequences;  // [sequence, sequence + sequences)
  Task* tasks;                  // [sequences * heads], longest first
  float* max;                   // [sequences * heads]: of each task
  float* scratch;               // per thread
  int64_t scratch_floats;
  GemmProblem* products;            // [heads]
  GemmBwdProblem* weight_products;  // [heads]

  const int32_t* start() const { return args->seq_start.as<int32_t>(); }
};

Work take_work(const MlaBwdArgs& a, const Exec& exec) {
  const int64_t rows = block_rows(a), H = a.q[1], pairs = (a.seq_start[0] - 1) * H;
  Work w{};
  w.args = &a;
  w.kv = exec.workspace.take<float>(rows * row_floats(a));
  w.dkv = exec.workspace.take<float>(rows * row_floats(a));
  w.dshared = exec.workspace.take<float>(rows * a.Dr);
  w.tasks = exec.workspace.take<Task>(pairs);
  w.max = exec.workspace.take<float>(pairs);
  w.scratch_floats = mla_head_bwd_scratch(a, a.q[0]);
  w.scratch = exec.workspace.take<float>(exec.pool.size() * w.scratch_floats);
  w.products = exec.workspace.take<GemmProblem>(H);
  w.weight_products = exec.workspace.take<GemmBwdProblem>(H);
  return w;
}

// Of the products for dkv_b, with blocks of up to N tokens. One piece of 2048 tokens may need more than two of
// fewer. Only shapes count here.
size_t weights_workspace(const MlaBwdArgs& a, int n_threads) {
  size_t bytes = 0;
  for (const int64_t n : {std::min<int64_t>(a.q[0], 2048), a.q[0]}) {
    const GemmBwdProblem one{.x = ConstTensor(a.kv_b.data, DType::f32, {n, a.R}),
                             .dy = ConstTensor(a.kv_b.data, DType::f32, {n, a.Dn + a.Dv}),
                             .dw = Tensor(a.dkv_b.data, DType::f32, {a.Dn + a.Dv, a.R})};
    std::vector<GemmBwdProblem> all(static_cast<size_t>(a.q[1]), one);
    for (DType compute : {DType::bf16, DType::f32}) {
      for (GemmBwdProblem& p : all) p.compute = compute;
      const GemmBwdArgs args{all};
      bytes = std::max(bytes, plan_gemm_bwd(args).workspace_bytes(args, n_threads));
    }
  }
  return bytes;
}

size_t workspace(const MlaBwdArgs& a, int n_threads) {
  const int64_t rows = block_rows(a), N = a.q[0], H = a.q[1], pairs = (a.seq_start[0] - 1) * H;
  return 2 * float_bytes(rows * row_floats(a)) + float_bytes(rows * a.Dr) + float_bytes(pairs) +
         aligned_size(static_cast<size_t>(pairs) * sizeof(Task)) + float_bytes(n_threads * mla_head_bwd_scratch(a, N)) +
         aligned_size(static_cast<size_t>(H) * sizeof(GemmProblem)) +
         aligned_size(static_cast<size_t>(H) * sizeof(GemmBwdProblem)) +
         std::max(gemm_workspace_bytes(N, std::max(a.R, a.Dn + a.Dv), n_threads), weights_workspace(a, n_threads));
}

// From w.sequence on, as many sequences as fit with all heads; of one that does not, as many heads as fit.
void find_block(Work& w) {
  const MlaBwdArgs& a = *w.args;
  const int64_t B = a.seq_start[0] - 1, H = a.q[1], most = kBlockFloats / row_floats(a);
  const int32_t* start = w.start();
  w.token = start[w.sequence];
  w.sequences = 1;
  while (w.sequence + w.sequences < B && (start[w.sequence + w.sequences + 1] - w.token) * H <= most) ++w.sequences;
  w.tokens = start[w.sequence + w.sequences] - w.token;
}

int64_t heads_of_block(const Work& w) {
  const int64_t H = w.args->q[1], most = kBlockFloats / row_floats(*w.args);
  return std::clamp(most / std::max<int64_t>(w.tokens, 1), std::min(H, kLeastHeads), H);
}

Tensor columns(float* rows, int64_t n, int64_t width, int64_t stride) {
  Tensor t = Tensor::of(rows, {n, width});
  t.row_stride = stride;
  return t;
}

// The latents of the block, without the shared part.
ConstTensor latents(const Work& w) { return w.args->latent.rows(w.token, w.token + w.tokens).columns(0, w.args->R); }

void expand(const Work& w, const Exec& exec) {
  const MlaBwdArgs& a = *w.args;
  const int64_t D = a.Dn + a.Dv;
  for (int64_t h = 0; h < w.heads; ++h)
    std::construct_at(w.products + h, GemmProblem{.x = latents(w),
                                                  .w = a.kv_b.rows((w.head + h) * D, (w.head + h + 1) * D),
                                                  .y = columns(w.kv + h * w.tokens * w.row(), w.tokens, D, w.row()),
                                                  .exact = a.compute == DType::f32});
  const GemmArgs args{{w.products, static_cast<size_t>(w.heads)}};
  plan_gemm(args).run(args, exec);
}

// Long sequences first: what is short fills the gaps at the end.
void order_tasks(Work& w) {
  const int32_t* start = w.start();
  int64_t n = 0;
  for (int64_t b = w.sequence; b < w.sequence + w.sequences; ++b)
    for (int64_t h = 0; h < w.heads; ++h) w.tasks[n++] = {static_cast<int32_t>(b), static_cast<int32_t>(h)};
  std::sort(w.tasks, w.tasks + n, [&](const Task& x, const Task& y) {
    const int32_t nx = start[x.sequence + 1] - start[x.sequence], ny = start[y.sequence + 1] - start[y.sequence];
    return nx != ny ? nx > ny : x.sequence != y.sequence ? x.sequence < y.sequence : x.head < y.head;
  });
}

void attend(Work& w, const Exec& exec) {
  const int32_t* start = w.start();
  order_tasks(w);
  exec.pool.parallel_for(w.sequences * w.heads, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      const auto [b, h] = w.tasks[i];
      if (start[b] < start[b + 1])
        w.max[i] = mla_head_bwd(w, start[b], start[b + 1] - start[b], h, w.scratch + thread * w.scratch_floats);
    }
  });
  if (!w.args->max_logit) return;
  float* max = w.args->max_logit.as<float>() + w.head;
  for (int64_t i = 0; i < w.sequences * w.heads; ++i) {
    const auto [b, h] = w.tasks[i];
    if (start[b] < start[b + 1]) max[h] = std::max(max[h], w.max[i]);
  }
}

// Of the keys and values of head h, [tokens, Dn + Dv].
ConstTensor gradients(const Work& w, int64_t h) {
  return columns(w.dkv + h * w.tokens * w.row(), w.tokens, w.args->Dn + w.args->Dv, w.row());
}

// dlatent, the heads in their order: whole rows of W of each head at once, and the shared part.
void contract(const Work& w, const Exec& exec) {
  const MlaBwdArgs& a = *w.args;
  const int64_t D = a.Dn + a.Dv;
  const Tensor to = a.dlatent.rows(w.token, w.token + w.tokens);
  for (int64_t h = 0; h < w.heads; ++h) {
    const GemmProblem problem{.x = gradients(w, h),
                              .w = a.kv_b_t.columns((w.head + h) * D, (w.head + h + 1) * D),
                              .y = to.columns(0, a.R),
                              .accumulate = w.head + h > 0,
                              .exact = a.compute == DType::f32};
    const GemmArgs args{{&problem, 1}};
    plan_gemm(args).run(args, exec);
  }
  exec.pool.parallel_for(w.tokens, 64, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* sum = to.row<float>(t) + a.R;
      if (w.head == 0) std::fill_n(sum, a.Dr, 0.0f);
      for (int64_t h = 0; h < w.heads; ++h) {
        const float* part = w.dshared + (h * w.tokens + t) * a.Dr;
        for (int64_t d = 0; d < a.Dr; ++d) sum[d] += part[d];
      }
    }
  });
}

void weights(const Work& w, const Exec& exec) {
  const MlaBwdArgs& a = *w.args;
  const int64_t D = a.Dn + a.Dv;
  for (int64_t h = 0; h < w.heads; ++h)
    std::construct_at(w.weight_products + h, GemmBwdProblem{.x = latents(w),
                                                            .dy = gradients(w, h),
                                                            .dw = a.dkv_b.rows((w.head + h) * D, (w.head + h + 1) * D),
                                                            .compute = a.compute});
  const GemmBwdArgs args{{w.weight_products, static_cast<size_t>(w.heads)}};
  plan_gemm_bwd(args).run(args, exec);
}

void run(const MlaBwdArgs& a, const Exec& exec) noexcept {
  if (a.q[0] == 0) return;
  Workspace::Scope scope(exec.workspace);
  Work w = take_work(a, exec);
  for (w.sequence = 0; w.sequence < a.seq_start[0] - 1; w.sequence += w.sequences) {
    find_block(w);
    if (w.tokens == 0) continue;
    const int64_t most = heads_of_block(w);
    for (w.head = 0; w.head < a.q[1]; w.head += w.heads) {
      w.heads = std::min(most, a.q[1] - w.head);
      expand(w, exec);
      attend(w, exec);
      contract(w, exec);
      weights(w, exec);
    }
  }
}

constexpr Variant<MlaBwdArgs> kVariants[] = {{"simd", Isa::baseline, no_refusal, workspace, run}};

void expect_extent(const char* name, int64_t value, int64_t least) {
  if (value < least) throw InvalidArgument(cat(kOp, ": ", name, ": expected at least ", least, ", got ", value));
}

void expect_dense(const char* name, const ConstTensor& t) {
  if (!t.dense()) throw InvalidArgument(cat(kOp, ": ", name, ": expected dense rows, got row stride ", t.row_stride));
}

void expect_sequences(const MlaBwdArgs& a) {
  expect_tensor(kOp, "seq_start", a.seq_start, DType::i32, {-1});
  const int64_t B = a.seq_start[0] - 1, N = a.q[0];
  const int32_t* start = a.seq_start.as<int32_t>();
  if (B < 0 || start[0] != 0 || start[B] != N)
    throw InvalidArgument(cat(kOp, ": seq_start: expected offsets from 0 to ", N, ", got ", text_of(a.seq_start),
                              B < 0 ? "" : cat(" from ", start[0], " to ", start[B])));
  for (int64_t b = 0; b < B; ++b)
    if (start[b] > start[b + 1])
      throw InvalidArgument(cat(kOp, ": seq_start[", b + 1, "]: expected at least ", start[b], ", got ", start[b + 1]));
}

}  // namespace

Plan<MlaBwdArgs> plan_mla_bwd(const MlaBwdArgs& a, Isa isa) {
  expect_extent("R", a.R, 1), expect_extent("Dn", a.Dn, 1), expect_extent("Dr", a.Dr, 0), expect_extent("Dv", a.Dv, 1);
  expect_tensor(kOp, "q", a.q, DType::f32, {-1, -1, a.Dn + a.Dr});
  const int64_t N = a.q[0], H = a.q[1], rows = H * (a.Dn + a.Dv);
  expect_extent("heads of q", H, 1);
  const DType type = a.kv_b.dtype;
  if (type != DType::f32 && type != DType::bf16 && type != DType::f16)
    throw InvalidArgument(cat(kOp, ": kv_b: expected f32, bf16 or f16, got ", text_of(a.kv_b)));
  if (a.compute != DType::f32 && a.compute != DType::bf16)
    throw InvalidArgument(cat(kOp, ": compute: expected f32 or bf16, got ", name_of(a.compute)));
  expect_tensor(kOp, "kv_b", a.kv_b, type, {rows, a.R}), expect_dense("kv_b", a.kv_b);
  expect_tensor(kOp, "kv_b_t", a.kv_b_t, type, {a.R, rows}), expect_dense("kv_b_t", a.kv_b_t);
  expect_tensor(kOp, "latent", a.latent, DType::f32, {N, a.R + a.Dr}), expect_dense("latent", a.latent);
  expect_tensor(kOp, "out", a.out, DType::f32, {N, H, a.Dv});
  expect_tensor(kOp, "dout", a.dout, DType::f32, {N, H, a.Dv});
  expect_tensor(kOp, "dq", a.dq, DType::f32, {N, H, a.Dn + a.Dr});
  expect_tensor(kOp, "dlatent", a.dlatent, DType::f32, {N, a.R + a.Dr}), expect_dense("dlatent", a.dlatent);
  expect_tensor(kOp, "dkv_b", a.dkv_b, DType::f32, {rows, a.R}), expect_dense("dkv_b", a.dkv_b);
  if (a.max_logit) expect_tensor(kOp, "max_logit", a.max_logit, DType::f32, {H});
  expect_sequences(a);
  return choose_variant<MlaBwdArgs>(kOp, kVariants, a, isa);
}

}  // namespace linnet::ops
