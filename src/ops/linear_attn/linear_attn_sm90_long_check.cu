// Checks the Hopper KDA kernels, and those around them, on tensors of more than 2^31 elements and calls of more than 2^21 tokens: one call
// against calls of its parts, whose offsets are small, in bits; prefill against the plain recurrence in f32; states in slots far up a pool.
// Takes up to 40 GB of device memory.
#include "ops/linear_attn/linear_attn_sm90_device_case.cuh"
#include "ops/norm/norm_sm90.h"
#include "ops/short_conv/short_conv_sm90.h"

namespace linnet::ops::sm90_check {
namespace {

constexpr int64_t kStateElements = static_cast<int64_t>(kD) * kD;
constexpr int64_t kMany = 1ll << 31;  // elements

std::vector<int64_t> part_of(const std::vector<int64_t>& start, int first, int end) {
  std::vector<int64_t> part(start.begin() + first, start.begin() + end + 1);
  for (auto& at : part) at -= start[first];
  return part;
}
std::vector<int32_t> narrow(const std::vector<int64_t>& x) { return {x.begin(), x.end()}; }

// Many tokens, and what one call and several made of them: outputs poisoned differently, states in slots of one pool.
template <class T>
struct LongCase : DrawnCase<T> {
  using Base = DrawnCase<T>;
  using Base::H, Base::N;
  DeviceArray<T> whole, parts;
  DeviceArray<float> state;

  LongCase(int64_t n_tokens, int n_heads, int n_qk_heads, KdaGate gate, int64_t n_slots)
      : Base(n_tokens, n_heads, n_qk_heads, gate),
        whole(N * H * kD),
        parts(N * H * kD),
        state(n_slots * H * kStateElements) {
    LINNET_CUDA_OK(cudaMemsetAsync(whole.get(), 0xff, whole.size() * sizeof(T), stream()));
    LINNET_CUDA_OK(cudaMemsetAsync(parts.get(), 0, parts.size() * sizeof(T), stream()));
    LINNET_CUDA_OK(cudaMemsetAsync(state.get(), 0xff, state.size() * sizeof(float), stream()));
  }
  float* state_at(int64_t slot) const { return state.get() + slot * H * kStateElements; }

  // Tokens from `begin` on, whose sequences begin at start; slots read before (none: zeros) and written after.
  void prefill(int64_t begin, const std::vector<int64_t>& start, bool is_64, T* out, const std::vector<int32_t>& in,
               const std::vector<int32_t>& to) const {
    const int n_sequences = static_cast<int>(start.size()) - 1;
    DeviceArray<int64_t> start64(start);
    DeviceArray<int32_t> start32(narrow(start)), slots_in(in), slots_out(to);
    const void* const at = is_64 ? static_cast<const void*>(start64.get()) : start32.get();
    KdaPrefillSm90 a = Base::prefill(begin, start.back(), n_sequences, at, is_64, out);
    a.state = state.get();
    a.state_in = in.empty() ? nullptr : slots_in.get();
    a.state_out = slots_out.get();
    a.whole_chains = true;
    DeviceArray<char> workspace(kda_prefill_sm90_workspace_bytes(a));
    workspace.poison();
    LINNET_CUDA_OK(kda_prefill_sm90(a, workspace.get(), stream()));
    LINNET_CUDA_OK(cudaStreamSynchronize(stream()));
  }
  // The same by the plain recurrence, from dense states (or zeros) to dense states.
  void recur(int64_t begin, const std::vector<int64_t>& start, T* out, const float* from, float* to) const {
    DeviceArray<int64_t> start64(start);
    const auto a = Base::recurrence(begin, static_cast<int>(start.size()) - 1, start64.get(), out, from, to);
    LINNET_CUDA_OK(kda_recurrent_sm90(a, stream()));
    LINNET_CUDA_OK(cudaStreamSynchronize(stream()));
  }
};

// One sequence, its state far up the pool: one call against calls cut at chunks; the last part against the recurrence.
template <class T>
void check_one_sequence(const char* what, int Hqk, KdaGate gate) {
  constexpr int H = 9, kFar = 14570;  // slots: 9 heads' states of so many slots are 2^31 elements
  constexpr int64_t N = (1ll << 21) + 77, kTail = 2048;
  const std::vector<int64_t> cuts = {0, 64, 1ll << 20, (N - kTail) / 64 * 64, N};
  static_assert(N * H * kD > kMany && kFar * static_cast<int64_t>(H) * kStateElements > kMany);
  LongCase<T> c(N, H, Hqk, gate, kFar + 2);
  c.prefill(0, {0, N}, true, c.whole.get(), {}, {kFar});
  DeviceArray<float> before(H * kStateElements), after(H * kStateElements);
  for (size_t i = 0; i + 1 < cuts.size(); i++) {
    if (i + 2 == cuts.size()) {
      LINNET_CUDA_OK(cudaMemcpy(before.get(), c.state_at(kFar + 1), before.size() * 4, cudaMemcpyDeviceToDevice));
    }
    const std::vector<int32_t> slot = {kFar + 1};
    c.prefill(cuts[i], {0, cuts[i + 1] - cuts[i]}, false, c.parts.get(), i ? slot : std::vector<int32_t>{-1}, slot);
  }
  const int64_t n = N * H * kD, m = H * kStateElements, from = cuts[cuts.size() - 2];
  const int64_t out = first_difference(c.whole.get(), c.parts.get(), n),
                state = first_difference(c.state_at(kFar), c.state_at(kFar + 1), m);
  verdict(out == n && state == m, std::string(what) + ", 2^21 tokens x 9 heads: one call has the bits of four" +
                                      where(out, n) + where(state, m));
  LINNET_CUDA_OK(cudaMemset(c.parts.get() + from * H * kD, 0xff, (N - from) * H * kD * sizeof(T)));
  c.recur(from, {0, N - from}, c.parts.get(), before.get(), after.get());
  const Error e = compare_on_device(c.whole.get() + from * H * kD, c.parts.get() + from * H * kD, (N - from) * H),
              s = compare_on_device(c.state_at(kFar), after.get(), static_cast<int64_t>(H) * kD);
  verdict(accept(e) && accept(s),
          std::string(what) + ", its last tokens against the recurrence: out " + show(e) + ", state " + show(s));
}

// Thousands of sequences: one call against two, and all against the recurrence.
void check_ragged() {
  constexpr int H = 9, B = 4200;
  std::vector<int64_t> start = {0};
  for (int b = 0; b < B; b++) start.push_back(start.back() + static_cast<int64_t>(mixed(b) % 1024));
  const int64_t N = start.back(), n = N * H * kD, m = static_cast<int64_t>(B) * H * kStateElements;
  LongCase<bf16> c(N, H, H, KdaGate::softplus, 2 * B);
  std::vector<int32_t> slots(B), others(B);
  for (int b = 0; b < B; b++) slots[b] = b, others[b] = B + b;
  c.prefill(0, start, false, c.whole.get(), {}, slots);
  for (const auto& [first, end] : {std::pair(0, B / 3), std::pair(B / 3, B)}) {
    c.prefill(start[first], part_of(start, first, end), true, c.parts.get(), {},
              {others.begin() + first, others.begin() + end});
  }
  const int64_t out = first_difference(c.whole.get(), c.parts.get(), n),
                state = first_difference(c.state_at(0), c.state_at(B), m);
  verdict(n > kMany && out == n && state == m, std::to_string(B) + " sequences, " + std::to_string(N) +
                                                   " tokens x 9 heads: one call, int32, has the bits of two, int64" +
                                                   where(out, n) + where(state, m));
  LINNET_CUDA_OK(cudaMemset(c.parts.get(), 0xff, c.parts.size() * sizeof(bf16)));
  c.recur(0, start, c.parts.get(), nullptr, c.state_at(B));
  const Error e = compare_on_device(c.whole.get(), c.parts.get(), N * H),
              s = compare_on_device(c.state_at(0), c.state_at(B), static_cast<int64_t>(B) * H * kD);
  verdict(accept(e) && accept(s), "and all agree with the recurrence: out " + show(e) + ", state " + show(s));
}

// Decode, verify and commit in slots far up the pools against the same in the first ones.
void check_far_slots() {
  constexpr int H = 32, B = 3, K = 3, kSlots = 4100;  // 32 heads' states of 4096 slots are 2^31 elements
  static_assert(static_cast<int64_t>(kSlots - 4) * H * kStateElements >= kMany);
  constexpr int64_t kWidth = H * kD, kState = H * kStateElements, kWindow = 9 * kWidth;
  const std::vector<int32_t> far = {kSlots - 1, kSlots - 3, kSlots - 2}, near = {0, 1, 2}, accepted = {K, 1, 2};
  DeviceArray<bf16> in(B * K * 6 * kWidth), windows(kSlots * kWindow);
  DeviceArray<float> conv(3 * kWidth * 4), norm(kD), a_log(H), dt_bias(kWidth), states(kSlots * kState);
  DeviceArray<int32_t> slots(static_cast<size_t>(B)), n_accepted(accepted);
  DeviceArray<char> pending(kda_verify_sm90_pending_bytes(B, H, K));
  draw(in, 11), draw(conv, 12, Spread{0, 0.5f}), draw(norm, 13, Spread{1, 0.1f}), draw(a_log, 14, Spread{1, 0.5f});
  draw(dt_bias, 15, Spread{-4.5f, 1.3f});
  const auto copy = [](auto* to, const auto* from, int64_t n) {
    LINNET_CUDA_OK(cudaMemcpy(to, from, n * sizeof *to, cudaMemcpyDeviceToDevice));
  };
  DeviceArray<float> first_states(B * kState);
  DeviceArray<bf16> first_windows(B * kWindow);
  draw(first_states, 16, Spread{0, 0.3f}), draw(first_windows, 17);
  const auto run = [&](const std::vector<int32_t>& at, bf16* to) {
    LINNET_CUDA_OK(cudaStreamSynchronize(stream()));
    slots.copy_from(at);
    for (int b = 0; b < B; b++) {
      copy(states.get() + at[b] * kState, first_states.get() + b * kState, kState);
      copy(windows.get() + at[b] * kWindow, first_windows.get() + b * kWindow, kWindow);
    }
    const bf16 *const qkv = in.get(), *const z = qkv + B * K * 3 * kWidth, *const gate = z + B * K * kWidth;
    const bf16* const beta = gate + B * K * kWidth;
    LINNET_CUDA_OK(kda_decode_sm90({.qkv = qkv,
                                    .z = z,
                                    .beta = beta,
                                    .out_gate = gate,
                                    .conv_weight = conv.get(),
                                    .norm_weight = norm.get(),
                                    .out = to,
                                    .conv_state = windows.get(),
                                    .state = states.get(),
                                    .slot = slots.get(),
                                    .n_sequences = B,
                                    .n_heads = H,
                                    .scale = 0.088f,
                                    .gate = {a_log.get(), dt_bias.get()}},
                                   stream()));
    LINNET_CUDA_OK(kda_verify_sm90({.qkv = qkv,
                                    .z = z,
                                    .beta = beta,
                                    .out_gate = gate,
                                    .conv_weight = conv.get(),
                                    .norm_weight = norm.get(),
                                    .out = to + B * kWidth,
                                    .conv_state = windows.get(),
                                    .state = states.get(),
                                    .slot = slots.get(),
                                    .n_sequences = B,
                                    .n_heads = H,
                                    .n_tokens = K,
                                    .pending = pending.get(),
                                    .scale = 0.088f,
                                    .gate = {a_log.get(), dt_bias.get()}},
                                   stream()));
    LINNET_CUDA_OK(kda_commit_sm90({n_accepted.get(), pending.get(), windows.get(), states.get(), slots.get(), B, H, K},
                                   stream()));
    LINNET_CUDA_OK(cudaStreamSynchronize(stream()));
  };
  constexpr int64_t kOut = (1 + K) * B * kWidth;
  DeviceArray<bf16> out_near(kOut), out_far(kOut);
  LINNET_CUDA_OK(cudaMemset(out_near.get(), 0, kOut * 2));
  out_far.poison();
  run(near, out_near.get());
  run(far, out_far.get());
  bool same = first_difference(out_near.get(), out_far.get(), kOut) == kOut, changed = true;
  for (int b = 0; b < B; b++) {
    const float *const a = states.get() + near[b] * kState, *const z = states.get() + far[b] * kState;
    same = same && first_difference(a, z, kState) == kState &&
           first_difference(windows.get() + near[b] * kWindow, windows.get() + far[b] * kWindow, kWindow) == kWindow;
    changed = changed && first_difference(a, first_states.get() + b * kState, kState) < kState;
  }
  verdict(same && changed, "decode, verify and commit beyond 2^31 elements of a pool: the bits of the first slots");
}

// More runs of tokens than a grid has rows.
void check_convolution() {
  constexpr int64_t N = 4194304 + 4099, C = 512, kCut = 2000003;
  static_assert(N * C > kMany && N / 64 > 65535);
  DeviceArray<bf16> x(N * C), whole(N * C), parts(N * C), states(2 * 3 * C);
  DeviceArray<float> weight(C * 4);
  draw(x, 21), draw(weight, 22, Spread{0, 0.5f}), draw(states, 23);
  LINNET_CUDA_OK(cudaMemsetAsync(whole.get(), 0xff, N * C * 2, stream()));
  LINNET_CUDA_OK(cudaMemsetAsync(parts.get(), 0, N * C * 2, stream()));
  const auto run = [&](int64_t begin, int64_t end, bf16* y, int32_t in, int32_t to) {
    DeviceArray<int64_t> start(std::vector<int64_t>{0, end - begin});
    DeviceArray<int32_t> slot_in(std::vector<int32_t>{in}), slot_out(std::vector<int32_t>{to});
    const ShortConvSm90 a = {.x = x.get() + begin * C,
                             .weight = weight.get(),
                             .y = y + begin * C,
                             .seq_start = start.get(),
                             .state = states.get(),
                             .state_in = slot_in.get(),
                             .state_out = slot_out.get(),
                             .x_stride = C,
                             .y_stride = C,
                             .n_tokens = end - begin,
                             .n_sequences = 1,
                             .n_channels = C,
                             .seq_start_is_64 = 1,
                             .silu = 1};
    LINNET_CUDA_OK(short_conv_sm90(a, stream()));
    LINNET_CUDA_OK(cudaStreamSynchronize(stream()));
  };
  run(0, N, whole.get(), -1, 0);
  run(0, kCut, parts.get(), -1, 1);
  run(kCut, N, parts.get(), 1, 1);
  const int64_t out = first_difference(whole.get(), parts.get(), N * C),
                state = first_difference(states.get(), states.get() + 3 * C, 3 * C);
  verdict(out == N * C && state == 3 * C,
          "short convolution of 2^22 tokens: one call has the bits of two" + where(out, N * C));
}

void check_norms() {
  constexpr int64_t N = (1 << 19) + 13, H = 32, C = H * kD;
  static_assert(N * C > kMany);
  DeviceArray<bf16> x(N * C), gate(N * C), whole(N * C), parts(N * C);
  DeviceArray<float> weight(C);
  draw(x, 31), draw(gate, 32), draw(weight, 33, Spread{1, 0.1f});
  for (const bool gated : {false, true}) {
    LINNET_CUDA_OK(cudaMemsetAsync(whole.get(), 0xff, N * C * 2, stream()));
    LINNET_CUDA_OK(cudaMemsetAsync(parts.get(), 0, N * C * 2, stream()));
    const auto run = [&](int64_t begin, int64_t end, bf16* y) {
      const GatedNormSm90 g = {
          x.get() + begin * C, gate.get() + begin * C, weight.get(), y + begin * C, C, C, C, end - begin, H, 1e-5f, 0};
      const RmsNormSm90 r = {x.get() + begin * C, weight.get(), y + begin * C, C, C, end - begin, C, 1e-5f};
      LINNET_CUDA_OK(gated ? gated_norm_sm90(g, stream()) : rms_norm_sm90(r, stream()));
    };
    run(0, N, whole.get());
    run(0, N / 3, parts.get());
    run(N / 3, N, parts.get());
    const int64_t out = first_difference(whole.get(), parts.get(), N * C);
    verdict(out == N * C, std::string(gated ? "gated norm" : "RMS norm") +
                              " of 2^31 elements: one call has the bits of two" + where(out, N * C));
  }
}

}  // namespace

void check_all() {
  check_one_sequence<bf16>("the layer's call", 9, KdaGate::softplus);
  check_one_sequence<__half>("f16, log decays, grouped heads", 3, KdaGate::log_decay);
  check_ragged();
  check_far_slots();
  check_convolution();
  check_norms();
}

}  // namespace linnet::ops::sm90_check

int main(int argc, char** argv) {
  using namespace linnet::ops::sm90_check;
  return run_checks(argc, argv, [](const std::string&) { check_all(); });
}
