// Checks that the Hopper kernels of the layer can be captured and are deterministic, at sizes that fill a GPU: each call three times in one graph,
// states carried from one to the next, replayed 100 times with every output poisoned before: the bits of three calls with a
// synchronisation behind each. Then, in the same graph, other lengths and inputs, of which the host tells nothing. Prefill also against the
// plain recurrence. Modes: `few` replays five times; `sanitize` calls every kernel on small shapes, without graphs, for compute-sanitizer;
// `emulated` replays once on those, for the emulated GPU.
#include <functional>

#include "ops/linear_attn/linear_attn_sm90_device_case.cuh"
#include "ops/linear_attn/linear_attn_sm90_launch.cuh"
#include "ops/norm/norm_sm90.h"
#include "ops/short_conv/short_conv_sm90.h"

namespace linnet::ops::sm90_check {
namespace {

using sm90::Schedule;
constexpr int kCalls = 3;
int n_replays = 100;  // 0: no graph

// Memory that a call writes: in whole, in part, or after reading it.
enum class Writes { whole, part, update };
struct Output {
  char* at;
  int64_t bytes;
  Writes writes;
  DeviceArray<char> before, expected;

  template <class T>
  Output(const DeviceArray<T>& x, Writes how)
      : at(reinterpret_cast<char*>(x.get())),
        bytes(static_cast<int64_t>(x.size() * sizeof(T))),
        writes(how),
        before(how == Writes::update ? bytes : 0),
        expected(bytes) {
    if (writes == Writes::update) copy(before.get(), at);
  }
  void copy(char* to, const char* from) const {
    LINNET_CUDA_OK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream()));
  }
  void reset(int pattern) const {
    if (writes == Writes::update) copy(at, before.get());
    else LINNET_CUDA_OK(cudaMemsetAsync(at, writes == Writes::part ? 0xee : pattern, bytes, stream()));
  }
  bool is_expected() const {
    const auto *a = reinterpret_cast<const bf16*>(at), *b = reinterpret_cast<const bf16*>(expected.get());
    return first_difference(a, b, bytes / 2) == bytes / 2;
  }
};

struct Calls {
  std::string name;
  std::vector<Output> outputs;
  std::function<void()> enqueue;
  std::function<void()> change;  // other contents of the inputs, where they are
};

void expect(Calls& c) {
  for (const Output& o : c.outputs) o.reset(0xff);
  for (int i = 0; i < kCalls; i++) {
    c.enqueue();
    LINNET_CUDA_OK(cudaDeviceSynchronize());
  }
  for (const Output& o : c.outputs) o.copy(o.expected.get(), o.at);
}

bool replay(const Calls& c, cudaGraphExec_t graph, int n) {
  bool same = true;
  for (int i = 0; i < n; i++) {
    for (const Output& o : c.outputs) o.reset(i % 2 ? 0 : 0x3c);
    LINNET_CUDA_OK(cudaGraphLaunch(graph, stream()));
    for (const Output& o : c.outputs) same = o.is_expected() && same;
  }
  return same;
}

void check(Calls c) {
  expect(c);
  if (n_replays == 0) return;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  LINNET_CUDA_OK(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeGlobal));
  for (int i = 0; i < kCalls; i++) c.enqueue();
  LINNET_CUDA_OK(cudaStreamEndCapture(stream(), &graph));
  LINNET_CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  const bool same = replay(c, exec, n_replays);
  std::vector<std::vector<char>> first;
  for (const Output& o : c.outputs) first.push_back(o.expected.host());
  c.change();
  expect(c);
  bool differs = false;
  for (size_t i = 0; i < first.size(); i++) differs = differs || first[i] != c.outputs[i].expected.host();
  const bool same_changed = replay(c, exec, std::min(n_replays, 5));
  LINNET_CUDA_OK(cudaGraphExecDestroy(exec));
  LINNET_CUDA_OK(cudaGraphDestroy(graph));
  verdict(same && same_changed && differs, c.name + ": " + std::to_string(n_replays) + " replays " +
                                               (same ? "have" : "DO NOT HAVE") + " the bits of single calls, " +
                                               (same_changed ? "with" : "NOT WITH") + " other inputs and lengths, too" +
                                               (differs ? "" : "; THEY CHANGE NOTHING"));
}

std::vector<int64_t> starts(const std::vector<int64_t>& lengths) {
  std::vector<int64_t> start = {0};
  for (const int64_t n : lengths) start.push_back(start.back() + n);
  return start;
}

// Prefill of sequences whose lengths are then taken in reverse; states updated in place.
template <class T>
void check_prefill(const char* what, Schedule schedule, const std::vector<int64_t>& lengths, int H, int Hqk,
                   KdaGate gate, bool checkpoints = false) {
  const int B = static_cast<int>(lengths.size());
  const auto begins = starts(lengths), reversed = starts({lengths.rbegin(), lengths.rend()});
  const DrawnCase<T> c(begins.back(), H, Hqk, gate);
  DeviceArray<T> out(c.v.size()), other(c.v.size());
  DeviceArray<int64_t> start(begins);
  DeviceArray<int32_t> slots(DeviceCase::slot_list(B));
  DeviceArray<float> state(static_cast<size_t>(B) * H * kD * kD), last(state.size());
  DeviceArray<float> after(checkpoints ? (c.N / 64 + B) * H * kD * kD : 0);
  draw(state, 7, Spread{0, 0.3f});
  DeviceArray<char> workspace(sm90::workspace_bytes(c.N, B, H, schedule));
  workspace.poison();
  KdaPrefillSm90 a = c.prefill(0, c.N, B, start.get(), true, out.get());
  a.state = state.get();
  a.state_in = a.state_out = slots.get();
  a.checkpoints = checkpoints ? after.get() : nullptr;

  // One call from zero states against the recurrence.
  KdaPrefillSm90 first = a;
  first.state_in = nullptr;
  first.state = last.get();
  LINNET_CUDA_OK(sm90::launch_prefill(first, workspace.get(), schedule, 0, stream()));
  DeviceArray<float> want(state.size()), in_order(state.size());
  LINNET_CUDA_OK(kda_recurrent_sm90(c.recurrence(0, B, start.get(), other.get(), nullptr, want.get()), stream()));
  const size_t one = static_cast<size_t>(H) * kD * kD;
  for (int b = 0; b < B; b++) {
    LINNET_CUDA_OK(cudaMemcpyAsync(in_order.get() + b * one, last.get() + (B - 1 - b) * one, one * sizeof(float),
                                   cudaMemcpyDeviceToDevice, stream()));
  }
  const Error e = compare_on_device(out.get(), other.get(), c.N * H),
              s = compare_on_device(in_order.get(), want.get(), static_cast<int64_t>(B) * H * kD);
  verdict(accept(e) && accept(s), std::string(what) + " against the recurrence: out " + show(e) + ", state " + show(s));

  std::vector<Output> outputs;
  outputs.emplace_back(out, Writes::whole);
  outputs.emplace_back(state, Writes::update);
  if (checkpoints) outputs.emplace_back(after, Writes::part);
  check({what, std::move(outputs),
         [&] { LINNET_CUDA_OK(sm90::launch_prefill(a, workspace.get(), schedule, 0, stream())); },
         [&] { c.redraw(2), start.copy_from(reversed); }});
}

// Prep's and the scan's roles in every schedule, and every build of them, in a few chunks.
void check_small_prefills() {
  const std::vector<int64_t> lengths = {70, 0, 1, 200, 64};
  for (const auto schedule : {Schedule::beside, Schedule::split, Schedule::in_turn, Schedule::cut}) {
    check_prefill<bf16>("softplus", schedule, lengths, 3, 3, KdaGate::softplus);
    check_prefill<__half>("f16, log decays, grouped", schedule, lengths, 4, 2, KdaGate::log_decay);
  }
  check_prefill<bf16>("beside, lower bound", Schedule::beside, lengths, 3, 3, KdaGate::lower_bound);
  check_prefill<bf16>("beside, checkpoints", Schedule::beside, lengths, 3, 3, KdaGate::softplus, true);
  check_prefill<bf16>("in turn, checkpoints", Schedule::in_turn, lengths, 3, 3, KdaGate::softplus, true);
}

void check_prefills() {
  const std::vector<int64_t> ragged = {1000, 1, 0, 3000, 64, 63, 17, 1024, 1500, 129, 700, 694};
  check_prefill<bf16>("beside, 8192 tokens x 32 heads", Schedule::beside, {8192}, 32, 32, KdaGate::softplus);
  check_prefill<bf16>("split, 8192 tokens x 32 heads", Schedule::split, {8192}, 32, 32, KdaGate::softplus);
  check_prefill<bf16>("beside, ragged x 32 heads", Schedule::beside, ragged, 32, 32, KdaGate::lower_bound);
  check_prefill<bf16>("in turn, ragged x 32 heads", Schedule::in_turn, ragged, 32, 32, KdaGate::softplus);
  check_prefill<bf16>("in turn, 8192 tokens x 64 heads", Schedule::in_turn, {8192}, 64, 64, KdaGate::softplus);
  check_prefill<bf16>("cut, two sequences x 2 heads", Schedule::cut, {9000, 11000}, 2, 2, KdaGate::softplus);
  check_prefill<__half>("beside, f16, log decays, grouped", Schedule::beside, ragged, 32, 8, KdaGate::log_decay);
  check_prefill<__half>("in turn, f16, log decays, grouped", Schedule::in_turn, ragged, 32, 8, KdaGate::log_decay);
  check_prefill<bf16>("in turn, checkpoints", Schedule::in_turn, ragged, 8, 8, KdaGate::softplus, true);
}

// Decode, then verify of four tokens and the commit of some, of B sequences; the same pools thrice.
void check_decode(int B, int H) {
  constexpr int K = 4;
  const int width = H * kD;
  DeviceArray<bf16> in(B * K * 6 * width), windows(B * 9 * width), out(B * width), tentative(B * K * width);
  DeviceArray<float> conv(3 * width * 4), norm(kD), a_log(H), dt_bias(width), states(B * width * kD);
  std::vector<int32_t> accepted(B);
  for (int b = 0; b < B; b++) accepted[b] = b % (K + 1);
  DeviceArray<int32_t> slots(DeviceCase::slot_list(B)), n_accepted(accepted);
  DeviceArray<char> pending(kda_verify_sm90_pending_bytes(B, H, K));
  draw(in, 11), draw(conv, 12, Spread{0, 0.5f}), draw(norm, 13, Spread{1, 0.1f}), draw(a_log, 14, Spread{1, 0.5f});
  draw(dt_bias, 15, Spread{-4.5f, 1.3f}), draw(states, 16, Spread{0, 0.3f}), draw(windows, 17);
  const bf16 *const qkv = in.get(), *const z = qkv + B * K * 3 * width, *const gate = z + B * K * width,
                    *const beta = gate + B * K * width;
  const KdaDecodeSm90 decode = {.qkv = qkv,
                                .z = z,
                                .beta = beta,
                                .out_gate = gate,
                                .conv_weight = conv.get(),
                                .norm_weight = norm.get(),
                                .out = out.get(),
                                .conv_state = windows.get(),
                                .state = states.get(),
                                .slot = slots.get(),
                                .n_sequences = B,
                                .n_heads = H,
                                .scale = 0.088f,
                                .gate = {a_log.get(), dt_bias.get()}};
  const KdaVerifySm90 verify = {.qkv = qkv,
                                .z = z,
                                .beta = beta,
                                .out_gate = gate,
                                .conv_weight = conv.get(),
                                .norm_weight = norm.get(),
                                .out = tentative.get(),
                                .conv_state = windows.get(),
                                .state = states.get(),
                                .slot = slots.get(),
                                .n_sequences = B,
                                .n_heads = H,
                                .n_tokens = K,
                                .pending = pending.get(),
                                .scale = 0.088f,
                                .gate = {a_log.get(), dt_bias.get()}};
  const KdaCommitSm90 commit = {n_accepted.get(), pending.get(), windows.get(), states.get(), slots.get(), B, H, K};
  std::vector<Output> outputs;
  outputs.emplace_back(out, Writes::whole);
  outputs.emplace_back(tentative, Writes::whole);
  outputs.emplace_back(states, Writes::update);
  outputs.emplace_back(windows, Writes::update);
  check({"decode, verify and commit of " + std::to_string(B) + " sequences x " + std::to_string(H) + " heads",
         std::move(outputs),
         [&] {
           LINNET_CUDA_OK(kda_decode_sm90(decode, stream()));
           LINNET_CUDA_OK(kda_verify_sm90(verify, stream()));
           LINNET_CUDA_OK(kda_commit_sm90(commit, stream()));
         },
         [&] {
           for (auto& n : accepted) n = K - n;
           draw(in, 21), n_accepted.copy_from(accepted);
         }});
}

// Convolution, recurrence and norms, one after the other.
void check_others(int H) {
  const int width = H * kD;
  const std::vector<int64_t> lengths = {30, 1, 0, 64, 5}, reversed = {lengths.rbegin(), lengths.rend()};
  const int B = static_cast<int>(lengths.size());
  const DrawnCase<bf16> c(starts(lengths).back(), H, H, KdaGate::softplus);
  DeviceArray<int64_t> start(starts(lengths));
  DeviceArray<int32_t> slots(DeviceCase::slot_list(B));
  DeviceArray<bf16> x(c.v.size()), convolved(c.v.size()), o(c.v.size()), normed(c.v.size()), y(c.v.size()),
      windows(B * 3 * width);
  DeviceArray<float> weight(4 * width), state(B * width * kD);
  draw(x, 31), draw(weight, 32, Spread{0, 0.5f}), draw(windows, 33), draw(state, 34, Spread{0, 0.3f});
  const ShortConvSm90 conv = {.x = x.get(),
                              .weight = weight.get(),
                              .y = convolved.get(),
                              .seq_start = start.get(),
                              .state = windows.get(),
                              .state_in = slots.get(),
                              .state_out = slots.get(),
                              .x_stride = width,
                              .y_stride = width,
                              .n_tokens = c.N,
                              .n_sequences = B,
                              .n_channels = width,
                              .seq_start_is_64 = 1,
                              .silu = 1};
  KdaRecurrentSm90 recurrent = c.recurrence(0, B, start.get(), o.get(), state.get(), state.get());
  recurrent.v = convolved.get();
  const RmsNormSm90 rms = {o.get(), weight.get(), normed.get(), width, width, c.N, width, 1e-5f};
  const GatedNormSm90 gated = {normed.get(), x.get(), weight.get(), y.get(), width, width, width, c.N, H, 1e-5f, 0};
  std::vector<Output> outputs;
  for (const auto* out : {&convolved, &o, &normed, &y}) outputs.emplace_back(*out, Writes::whole);
  outputs.emplace_back(windows, Writes::update);
  outputs.emplace_back(state, Writes::update);
  check({"convolution, recurrence, norm and gated norm of ragged sequences", std::move(outputs),
         [&] {
           LINNET_CUDA_OK(short_conv_sm90(conv, stream()));
           LINNET_CUDA_OK(kda_recurrent_sm90(recurrent, stream()));
           LINNET_CUDA_OK(rms_norm_sm90(rms, stream()));
           LINNET_CUDA_OK(gated_norm_sm90(gated, stream()));
         },
         [&] { c.redraw(2), draw(x, 41), start.copy_from(starts(reversed)); }});
}

}  // namespace

void check_all(const std::string& mode) {
  const bool small = is_short(mode);
  if (mode == "few") n_replays = 5;
  if (small) {
    n_replays = is_emulated(mode) ? 1 : 0;
    check_small_prefills();
  } else {
    check_prefills();
  }
  check_decode(small ? 3 : 40, small ? 2 : 32);
  check_others(small ? 2 : 32);
}

}  // namespace linnet::ops::sm90_check

int main(int argc, char** argv) {
  using namespace linnet::ops::sm90_check;
  return run_checks(argc, argv, check_all);
}
