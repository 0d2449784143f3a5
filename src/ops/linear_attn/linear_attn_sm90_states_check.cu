// Checks what the Hopper KDA prefill does with states beside the plain pool: checkpoints, pools with values first, pools in bf16.
// Modes `sanitize`, for compute-sanitizer, and `emulated`, for the emulated GPU, are short.
#include "ops/linear_attn/linear_attn_sm90_launch.cuh"
#include "ops/linear_attn/linear_attn_sm90_options_case.cuh"
#include "ops/linear_attn/linear_attn_sm90_verdict.cuh"

namespace linnet::ops::sm90_check {
namespace {

size_t n_slots(const Case& c) { return c.N() / kKdaSm90Chunk + c.B(); }

// Per record slot and head the definition's state after the slot's tokens; owned: which slots have tokens.
std::vector<double> reference_checkpoints(const Case& c, std::vector<bool>& owned) {
  std::vector<double> all(n_slots(c) * c.H * kState);
  owned.assign(n_slots(c), false);
  for (int b = 0; b < c.B(); b++) {
    const int64_t first = c.start[b] / kKdaSm90Chunk + b, length = c.start[b + 1] - c.start[b];
    for (int64_t i = 0; i * kKdaSm90Chunk < length; i++) owned[first + i] = true;
  }
  parallel(c.B() * c.H, [&](int item) {
    const int b = item / c.H, h = item % c.H;
    std::vector<double> s(c.state.begin() + item * kState, c.state.begin() + (item + 1) * kState);
    for (int64_t n = c.start[b]; n < c.start[b + 1]; n++) {
      double q[kD], k[kD], v[kD], z[kD], o[kD];
      const size_t at = (n * c.H + h) * kD;
      for (int d = 0; d < kD; d++) {
        q[d] = __bfloat162float(c.q[at + d]), k[d] = __bfloat162float(c.k[at + d]);
        v[d] = __bfloat162float(c.v[at + d]), z[d] = __bfloat162float(c.z[at + d]);
      }
      const double beta = 1 / (1 + std::exp(-static_cast<double>(__bfloat162float(c.beta[n * c.H + h]))));
      reference_token(c, h, q, k, v, z, beta, s.data(), o);
      const int64_t i = n - c.start[b];
      if ((i + 1) % kKdaSm90Chunk != 0 && n + 1 != c.start[b + 1]) continue;
      const size_t slot = c.start[b] / kKdaSm90Chunk + b + i / kKdaSm90Chunk;
      std::copy(s.begin(), s.end(), all.begin() + (slot * c.H + h) * kState);
    }
  });
  return all;
}

void check_checkpoints(Draw draw) {
  const Case c = make_case(draw, {1, 64, 0, 65, 200, 0, 128, 700}, 3, 300 + static_cast<unsigned>(draw));
  DeviceCase d(c);
  d.run();
  const auto out = d.out.host();
  const auto state = d.state.host();
  std::vector<bool> owned;
  const auto ref = reference_checkpoints(c, owned);
  DeviceArray<float> checkpoints(ref.size());
  d.args.checkpoints = checkpoints.get();
  std::vector<float> first;
  bool plain_same = true, lanes_same = true;
  for (const int n_windows : {0, 1, 3}) {  // 0: in turn
    const auto schedule = n_windows ? sm90::Schedule::beside : sm90::Schedule::in_turn;
    DeviceArray<char> workspace(sm90::workspace_bytes(c.N(), c.B(), c.H, schedule, n_windows));
    for (const int n_lanes : {0, 1, 3, 7}) {
      d.reset(c);
      workspace.poison();
      checkpoints.poison();
      LINNET_CUDA_OK(sm90::launch_prefill(d.args, workspace.get(), schedule, n_lanes, stream(), n_windows));
      plain_same =
          plain_same && same_bits(d.out.host(), out, out.size()) && same_bits(d.state.host(), state, state.size());
      const auto got = checkpoints.host();
      if (first.empty()) first = got;
      lanes_same = lanes_same && same_bits(got, first, got.size());
    }
  }
  std::vector<float> got;
  std::vector<double> want;
  bool untouched = true;
  const size_t one = c.H * kState;
  for (size_t slot = 0; slot < owned.size(); slot++) {
    const auto from = first.begin() + slot * one;
    if (owned[slot]) {
      got.insert(got.end(), from, from + one);
      want.insert(want.end(), ref.begin() + slot * one, ref.begin() + (slot + 1) * one);
    } else {
      for (size_t i = 0; i < one; i++) {
        uint32_t bits;
        std::memcpy(&bits, &from[i], 4);
        untouched = untouched && bits == 0xffffffffu;
      }
    }
  }
  const Error e = compare(got, want);
  verdict(accept(e),
          std::string("checkpoints against the definition, ") + kDrawNames[static_cast<int>(draw)] + ": " + show(e));
  verdict(untouched, "slots without tokens are not written");
  verdict(plain_same, "outputs and final states have the bits of a call without checkpoints");
  verdict(lanes_same, "checkpoints: the same bits by each schedule, with 1, 3, 7 and all CTAs");
  // The last chunk's checkpoint of each sequence is its final state.
  bool last_same = true;
  const auto final_states = DeviceCase::permuted(state, c.B());
  for (int b = 0; b < c.B(); b++) {
    const int64_t length = c.start[b + 1] - c.start[b];
    if (length == 0) continue;
    const size_t slot = c.start[b] / kKdaSm90Chunk + b + (length - 1) / kKdaSm90Chunk;
    last_same =
        last_same && std::memcmp(first.data() + slot * one, final_states.data() + b * one, one * sizeof(float)) == 0;
  }
  verdict(last_same, "each sequence's last checkpoint is its final state, in bits");
}

// A call that starts from a checkpoint, in place in their pool.
void check_restart(bool v_first) {
  constexpr int kLength = 200;
  const Case c = make_case(Draw::mixed, {kLength}, 2, 22);
  const auto initial = v_first ? transposed(c.state) : c.state;
  DeviceCase d(c);
  DeviceArray<float> checkpoints(n_slots(c) * c.H * kState);
  d.state.copy_from(initial);
  d.args.state_v_first = v_first;
  d.args.checkpoints = checkpoints.get();
  d.run();
  const auto out = d.out.host();
  const auto all = checkpoints.host();
  bool same = true;
  for (const int cut : {64, 128, 192}) {
    DeviceCase rest(c);
    DeviceArray<float> pool(all), later(all.size());
    later.poison();
    const size_t offset = static_cast<size_t>(cut) * c.H * kD;
    rest.start32.copy_from({0, kLength - cut});
    rest.slots.copy_from({cut / kKdaSm90Chunk - 1});
    rest.args.n_tokens = kLength - cut;
    rest.args.q = rest.q.get() + offset, rest.args.k = rest.k.get() + offset, rest.args.v = rest.v.get() + offset;
    rest.args.z = rest.z.get() + offset, rest.args.beta = rest.beta.get() + cut * c.H;
    rest.args.out = rest.out.get() + offset;
    rest.args.state = pool.get();
    rest.args.state_v_first = v_first;
    rest.args.checkpoints = later.get();
    rest.run();
    const auto got = rest.out.host();
    same = same && std::memcmp(got.data() + offset, out.data() + offset, (out.size() - offset) * sizeof(bf16)) == 0;
    const size_t one = c.H * kState, first = cut / kKdaSm90Chunk, n = (all.size() / one - first) * one;
    const auto later_all = later.host();
    same = same && std::memcmp(later_all.data(), all.data() + first * one, n * sizeof(float)) == 0;
  }
  verdict(same, std::string("restarted from the checkpoints after 64, 128 and 192 tokens: the bits of one call") +
                    (v_first ? ", values first" : ""));
}

// Every layout and type of the pool against the plain one, in bits; of `initial` bf16 has all values, `plain` is what a call leaves of it.
// answers(): makes the call with args as they are, and whether its outputs are as with the plain pool.
template <class C, class Answers>
void check_pools(const C& c, KdaPrefillSm90& args, const std::string& call, const std::vector<float>& initial,
                 const std::vector<float>& plain, Answers answers, int D = kD) {
  const size_t one = c.H * D * D;
  DeviceArray<float> checkpoints((c.N() / kKdaSm90Chunk + c.B()) * one);
  for (const bool v_first : {false, true}) {
    const auto pool = v_first ? transposed(initial, D) : initial, want = v_first ? transposed(plain, D) : plain;
    for (const bool with_checkpoints : {false, true}) {
      if (with_checkpoints && D < kD) continue;
      const std::string how =
          call + (v_first ? ", values first" : ", keys first") + (with_checkpoints ? ", checkpoints" : "");
      args.state_v_first = v_first;
      args.checkpoints = with_checkpoints ? checkpoints.get() : nullptr;
      DeviceArray<float> f32(pool);
      args.state = f32.get();
      args.state_type = KdaStateType::f32;
      const bool outputs = answers();
      verdict(outputs && same_bits(f32.host(), want, want.size()), "f32 pool" + how);

      DeviceArray<bf16> half(rounded(pool));
      checkpoints.poison();
      args.state = half.get();
      args.state_type = KdaStateType::bf16;
      const bool outputs_of_half = answers();
      verdict(outputs_of_half && same_bits(half.host(), rounded(want), want.size()), "bf16 pool" + how);
      if (!with_checkpoints) continue;
      const auto all = checkpoints.host();
      bool last = true;
      for (int b = 0; b < c.B(); b++) {
        const int64_t length = c.start[b + 1] - c.start[b];
        const size_t slot = c.start[b] / kKdaSm90Chunk + b + (length - 1) / kKdaSm90Chunk;
        last = last && (length == 0 || std::memcmp(all.data() + slot * one, want.data() + (c.B() - 1 - b) * one,
                                                   one * sizeof(float)) == 0);
      }
      verdict(last, "each sequence's last checkpoint is its final state, in f32" + how);
    }
  }
}

const std::vector<int64_t> kLengths = {1, 200, 0, 64, 333};
void round_to_bf16(std::vector<float>& x) {
  for (auto& e : x) e = __bfloat162float(__float2bfloat16(e));
}

void check_pools_of_layer() {
  Case c = make_case(Draw::trained, kLengths, 3, 400);
  round_to_bf16(c.state);
  DeviceCase d(c);
  d.run();
  const auto out = d.out.host();
  const auto initial = DeviceCase::permuted(c.state, c.B());
  check_pools(c, d.args, "", initial, d.state.host(), [&] {
    d.out.poison();
    d.run();
    return same_bits(d.out.host(), out, out.size());
  });
  // Negative slots: nothing read, nothing written.
  d.args.checkpoints = nullptr;
  DeviceArray<bf16> half(initial.size());
  half.poison();
  const auto before = half.host();
  d.slots.copy_from(std::vector<int32_t>(c.B(), -1));
  d.args.state = half.get();
  d.run();
  std::fill(c.state.begin(), c.state.end(), 0.f);
  const Error e = compare(d.out.host(), reference(c).out);
  verdict(accept(e) && same_bits(half.host(), before, before.size()),
          "bf16 pool, negative slots: zero state in, none out: " + show(e));
}

// Calls with options go in turn, each type with a grid of its own.
void check_pools_with_options(int head_dim) {
  for (const Options& o :
       {Options{.gate = KdaGate::head_log_decay, .n_qk_heads = 2, .beta_values = true, .head_dim = head_dim},
        Options{.gate = KdaGate::log_decay, .input = KdaInput::f16, .normalize = false, .head_dim = head_dim}}) {
    OptionCase c = make_option_case(o, kLengths, 4, 32);
    round_to_bf16(c.state);
    OptionDevice d(c);
    d.args.whole_chains = true;
    const auto call = [&] {
      d.out.data.poison();
      DeviceArray<char> workspace(kda_prefill_sm90_workspace_bytes(d.args));
      workspace.poison();
      LINNET_CUDA_OK(kda_prefill_sm90(d.args, workspace.get(), stream()));
      bool gaps_kept = true;
      return d.out.host(o.input, gaps_kept);
    };
    const auto out = call();
    check_pools(
        c, d.args, std::string(", ") + kGateNames[static_cast<int>(o.gate)] + ", heads of " + std::to_string(head_dim),
        DeviceCase::permuted(c.state, c.B()), d.state.host(), [&] { return same_bits(call(), out, out.size()); },
        head_dim);
  }
}

}  // namespace
}  // namespace linnet::ops::sm90_check

int main(int argc, char** argv) {
  using namespace linnet::ops::sm90_check;
  return run_checks(argc, argv, [](const std::string& mode) {
    check_checkpoints(Draw::trained);
    if (!is_short(mode))
      for (const Draw draw : {Draw::weak, Draw::mixed, Draw::bounded}) check_checkpoints(draw);
    check_restart(false);
    check_restart(true);
    check_pools_of_layer();
    for (const int head_dim : {128, 64}) check_pools_with_options(head_dim);
  });
}
