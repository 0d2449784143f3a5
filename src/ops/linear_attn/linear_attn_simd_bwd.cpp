// The recurrent core's gradient with portable vectors, f32: the way through the chunks of a head, memory and threads. The
// work itself is in the linear_attn_simd_bwd_*-inl.h files.
//
// The chunks of a head run forwards first, each leaving a slot, then backwards. Slots are kept for a segment of chunks; of a
// longer sequence only the states between segments are kept, and each segment but the last runs forwards once more.
#include "ops/linear_attn/linear_attn_simd_bwd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/linear_attn/linear_attn_simd_bwd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/linear_attn/linear_attn_simd_bwd_products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

constexpr int64_t kSegmentChunks = 32;  // 2,048 tokens; at Dk = Dv = 128 a slot is 128 KiB

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Memory of one thread: temporaries, the slots of a segment, and the states at the starts of segments.
struct BwdMemory {
  float* memory;
  BwdShape shape;

  static int64_t floats(const BwdShape& shape, int64_t n_tokens) {
    const int64_t chunks = ceil_div(n_tokens, kLinearAttnChunk);
    return fixed(shape) + std::min(chunks, kSegmentChunks) * BwdSlot::floats(shape) +
           ceil_div(chunks, kSegmentChunks) * shape.state();
  }
  static int64_t fixed(const BwdShape& shape) {
    return ChunkScratch::floats(shape.Dk) + ChunkOperators::floats(shape.Dk) + BwdScratch::floats(shape);
  }
  ChunkScratch scratch() const { return {memory, shape.Dk}; }
  ChunkOperators operators() const { return {memory + ChunkScratch::floats(shape.Dk), shape.Dk}; }
  BwdScratch bwd_scratch() const {
    return {memory + ChunkScratch::floats(shape.Dk) + ChunkOperators::floats(shape.Dk), shape};
  }
  BwdSlot slot(int64_t i) const { return {memory + fixed(shape) + i * BwdSlot::floats(shape), shape}; }
  float* segment_state(int64_t segment, int64_t n_chunks) const {
    return slot(std::min(n_chunks, kSegmentChunks)).s + segment * shape.state();
  }
};

// One value head of one sequence.
struct BwdRun {
  LinearAttnBwdHead x;
  BwdMemory memory;
  bool has_state, has_dstate;
  int64_t n_chunks;

  LinearAttnBwdHead chunk(int64_t c) const {
    const int64_t first = c * kLinearAttnChunk;
    return tokens_of(x, first, std::min(kLinearAttnChunk, x.in.n_tokens - first));
  }
  BwdSlot slot(int64_t c) const {  // the state of a segment's first chunk is kept with the segment
    BwdSlot slot = memory.slot(c % kSegmentChunks);
    if (c % kSegmentChunks == 0) slot.s = memory.segment_state(c / kSegmentChunks, n_chunks);
    return slot;
  }
  ChunkOperators operators(int64_t c) const {
    ChunkOperators op = memory.operators();
    op.qk = slot(c).qk, op.kk = slot(c).kk;
    return op;
  }
  bool has_state_before(int64_t c) const { return has_state || c > 0; }
  bool alone() const { return n_chunks == 1 && !has_state && !has_dstate; }

  // Chunks [first, last) forwards: their slots. `on`: and the state after them, for the next segment.
  void recompute(int64_t first, int64_t last, bool on) const {
    for (int64_t c = first; c < last; ++c) {
      float* next = c + 1 < last || on ? slot(c + 1).s : nullptr;
      recompute_chunk(chunk(c).in, memory.shape, memory.scratch(), operators(c), slot(c), alone(), has_state_before(c),
                      next);
    }
  }
};

// Returns the gradient of a log-decay that all tokens of the head share. state and dstate may be null.
double run_head(const LinearAttnBwdHead& x, const float* state, float* dstate, const BwdMemory& memory) {
  const BwdShape& shape = memory.shape;
  const int64_t n_chunks = ceil_div(x.in.n_tokens, kLinearAttnChunk);
  const BwdRun head{x, memory, state != nullptr, dstate != nullptr, n_chunks};
  const ChunkScratch scratch = memory.scratch();
  const BwdScratch bwd = memory.bwd_scratch();
  for (int64_t p = 0; p < shape.panels; ++p) {
    const int64_t at = p * panel_floats(shape.Dk);
    if (state) load_panel(state, shape.Dk, shape.Dv, p, head.slot(0).s + at);
    if (dstate) load_panel(dstate, shape.Dk, shape.Dv, p, bwd.ds + at);
  }
  double dlog_decay = 0;
  const int64_t last_segment = (n_chunks - 1) / kSegmentChunks;
  for (int64_t s = 0; s < last_segment; ++s) head.recompute(s * kSegmentChunks, (s + 1) * kSegmentChunks, true);
  for (int64_t s = last_segment; s >= 0; --s) {
    const int64_t first = s * kSegmentChunks, last = std::min(n_chunks, first + kSegmentChunks);
    head.recompute(first, last, false);
    for (int64_t c = last - 1; c >= first; --c) {
      const LinearAttnBwdHead chunk = head.chunk(c);
      const ChunkOperators op = head.operators(c);
      if (c < last - 1) load_chunk(chunk.in, scratch, op), decay_rows(scratch, op, padded_tokens(chunk.in.n_tokens));
      const BwdStates states{head.has_state_before(c), dstate || c + 1 < n_chunks, dstate || c > 0};
      dlog_decay += bwd_chunk(chunk, shape, scratch, op, head.slot(c), bwd, states);
    }
  }
  for (int64_t p = 0; p < shape.panels && dstate; ++p)
    store_panel(bwd.ds + p * panel_floats(shape.Dk), shape.Dk, shape.Dv, p, dstate);
  return dlog_decay;
}

// A task is a key head of a sequence, so that its value heads add to dq and dk one after the other.
void run(const LinearAttnBwdArgs& a, const Exec& exec) {
  const int64_t N = a.q[0], B = a.seq_start[0] - 1, H = a.v[1], Hk = a.k[1], group = H / Hk;
  const int32_t* start = a.seq_start.as<int32_t>();
  const BwdShape shape(a.k[2], a.v[2]);
  Workspace::Scope scope(exec.workspace);
  const int64_t floats = BwdMemory::floats(shape, N), state_floats = shape.Dk * shape.Dv;
  float* memory = exec.workspace.take<float>(exec.pool.size() * floats);
  double* dlog_decay = exec.workspace.take<double>(B * H);
  exec.pool.parallel_for(B * Hk, 1, [&](int64_t task_begin, int64_t task_end, int thread) {
    const BwdMemory mine{memory + thread * floats, shape};
    for (int64_t task = task_begin; task < task_end; ++task) {
      const int64_t b = task / Hk, key_head = task % Hk, n = start[b + 1] - start[b];
      const float* state = a.state ? a.state[b] : nullptr;
      float* dstate = a.dstate ? a.dstate[b] : nullptr;
      for (int64_t h = key_head * group; h < (key_head + 1) * group; ++h)
        dlog_decay[b * H + h] =
            n == 0 ? 0
                   : run_head(tokens_of(head_of(a, b, h), 0, n), state ? state + h * state_floats : nullptr,
                              dstate ? dstate + h * state_floats : nullptr, mine);
    }
  });
  for (int64_t h = 0; h < H && a.decay == Decay::per_head && a.dlog_decay; ++h) {
    double sum = 0;
    for (int64_t b = 0; b < B; ++b) sum += dlog_decay[b * H + h];
    a.dlog_decay.as<float>()[h] = static_cast<float>(sum);
  }
}

size_t workspace_bytes(const LinearAttnBwdArgs& a, int n_threads) {
  const int64_t floats = BwdMemory::floats(BwdShape(a.k[2], a.v[2]), a.q[0]), heads = (a.seq_start[0] - 1) * a.v[1];
  return aligned_size(static_cast<size_t>(n_threads * floats) * sizeof(float)) +
         aligned_size(static_cast<size_t>(heads) * sizeof(double));
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
namespace {
HWY_EXPORT(run);
HWY_EXPORT(workspace_bytes);
}  // namespace

void linear_attn_simd_bwd(const LinearAttnBwdArgs& args, const Exec& exec) noexcept {
  HWY_DYNAMIC_DISPATCH(run)(args, exec);
}

size_t linear_attn_simd_bwd_workspace_bytes(const LinearAttnBwdArgs& args, int n_threads) {
  return HWY_DYNAMIC_DISPATCH(workspace_bytes)(args, n_threads);
}

}  // namespace linnet::ops
#endif
