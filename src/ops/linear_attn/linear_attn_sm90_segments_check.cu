// Checks the Hopper KDA prefill with chains cut in time: against the definition in double, for any cut, and in bits what a cut must not change.
// Modes `sanitize`, for compute-sanitizer, and `emulated`, for the emulated GPU, are short.
#include "ops/linear_attn/linear_attn_sm90_launch.cuh"
#include "ops/linear_attn/linear_attn_sm90_verdict.cuh"

namespace linnet::ops::sm90_check {
namespace {

using sm90::Schedule;

void run(DeviceCase& d, const Case& c, Schedule schedule, int n_lanes) {
  DeviceArray<char> workspace(sm90::workspace_bytes(d.args.n_tokens, c.B(), c.H, schedule));
  workspace.poison();
  LINNET_CUDA_OK(sm90::launch_prefill(d.args, workspace.get(), schedule, n_lanes, stream()));
  LINNET_CUDA_OK(cudaStreamSynchronize(stream()));
}

// Cuts in every place relative to chains: within chunks' runs, at chains' ends, before holes, chains through several lanes.
void check_accuracy(bool short_mode) {
  const std::vector<int64_t> lengths = {1, 15, 16, 0, 17, 63, 64, 65, 127, 128, 129, 200, 0, 1000};
  const std::vector<int> lanes = short_mode ? std::vector<int>{7} : std::vector<int>{2, 3, 7, 23, 0};
  for (int draw = 0; draw < (short_mode ? 1 : 10); draw++) {
    const Case c = make_case(static_cast<Draw>(draw), lengths, 3, 100 + draw);
    const Result ref = reference(c);
    DeviceCase d(c);
    for (const int n_lanes : lanes) {
      d.reset(c);
      run(d, c, Schedule::cut, n_lanes);
      const Error out = compare(d.out.host(), ref.out),
                  state = compare(DeviceCase::permuted(d.state.host(), c.B()), ref.state);
      verdict(accept(out) && accept(state), std::string("ragged, ") + kDrawNames[draw] + ", " +
                                                std::to_string(n_lanes) + " lanes: out " + show(out) + ", state " +
                                                show(state));
    }
  }
}

// As the public call chooses it.
void check_long(Draw draw, int64_t T, int H) {
  const Case c = make_case(draw, {T}, H, 7);
  const bool chosen = sm90::choose_schedule(c.N(), c.B(), H, false, true) == Schedule::cut;
  DeviceCase d(c);
  d.run();
  const Result ref = reference(c);
  const Error out = compare(d.out.host(), ref.out), state = compare(d.state.host(), ref.state);
  verdict(chosen && accept(out) && accept(state), std::to_string(T) + " tokens, " + std::to_string(H) + " heads, " +
                                                      kDrawNames[static_cast<int>(draw)] + (chosen ? "" : ": NOT CUT") +
                                                      ": out " + show(out) + ", state " + show(state));

  // Whole chains: what the other schedules give.
  const auto cut = d.out.host();
  d.reset(c);
  d.args.whole_chains = true;
  d.run();
  const auto whole = d.out.host();
  const auto whole_state = d.state.host();
  const Error whole_out = compare(whole, ref.out), whole_last = compare(whole_state, ref.state);
  d.reset(c);
  run(d, c, Schedule::in_turn, 0);
  verdict(accept(whole_out) && accept(whole_last) && same_bits(d.out.host(), whole, whole.size()) &&
              same_bits(d.state.host(), whole_state, whole_state.size()),
          "whole_chains: the bits of the other schedules: out " + show(whole_out) + ", state " + show(whole_last));
  // Where a lane's decays leave nothing of the state before it, a cut changes no bit.
  if (draw != Draw::bounded) verdict(!same_bits(cut, whole, whole.size()), "and a cut has its own, so it was cut");
}

void check_bits(int runs) {
  const Case c = make_case(Draw::trained, {700, 333, 0, 64, 2000}, 2, 21);
  DeviceCase d(c);
  run(d, c, Schedule::cut, 0);
  const auto out = d.out.host();
  const auto state = d.state.host();
  bool same = true;
  for (int i = 0; i < runs; i++) {
    d.reset(c);
    run(d, c, Schedule::cut, 0);
    same = same && same_bits(d.out.host(), out, out.size()) && same_bits(d.state.host(), state, state.size());
  }
  verdict(same, std::to_string(runs) + " runs, one answer");

  // The state in and the state out in different places: in one place a chain's end could overwrite what its beginning has yet to read.
  DeviceCase apart(c);
  DeviceArray<float> both(2 * c.state.size());
  LINNET_CUDA_OK(cudaMemcpy(both.get(), apart.state.get(), c.state.size() * sizeof(float), cudaMemcpyDeviceToDevice));
  std::vector<int32_t> to = DeviceCase::slot_list(c.B());
  for (auto& s : to) s += c.B();
  DeviceArray<int32_t> slots_out(to);
  apart.args.state = both.get();
  apart.args.state_out = slots_out.get();
  run(apart, c, Schedule::cut, 0);
  const auto states = both.host();
  verdict(same_bits(apart.out.host(), out, out.size()) &&
              std::memcmp(states.data() + c.state.size(), state.data(), state.size() * sizeof(float)) == 0,
          "state in and out in one slot and in two: same bits");

  // One lane is no cut.
  d.reset(c);
  run(d, c, Schedule::in_turn, 0);
  const auto whole = d.out.host();
  const auto whole_state = d.state.host();
  d.reset(c);
  run(d, c, Schedule::cut, 1);
  verdict(same_bits(d.out.host(), whole, whole.size()) && same_bits(d.state.host(), whole_state, whole_state.size()),
          "cut into one part: the bits of whole chains");

  // A pool in bf16 with values first, on values that bf16 has.
  Case r = c;
  for (auto& s : r.state) s = __bfloat162float(__float2bfloat16(s));
  DeviceCase plain(r);
  run(plain, r, Schedule::cut, 0);
  const auto want = plain.state.host();
  const auto initial = DeviceCase::permuted(r.state, r.B());
  const std::vector<bf16> pool = rounded(transposed(initial)), want_pool = rounded(transposed(want));
  DeviceArray<bf16> states_bf16(pool);
  DeviceCase other(r);
  other.args.state = states_bf16.get();
  other.args.state_type = KdaStateType::bf16;
  other.args.state_v_first = true;
  run(other, r, Schedule::cut, 0);
  verdict(same_bits(other.out.host(), plain.out.host(), out.size()) &&
              same_bits(states_bf16.host(), want_pool, want_pool.size()),
          "bf16 pool with values first: outputs in bits, states rounded");
}

void check_causality(int step) {
  constexpr int kLength = 700;
  const Case one = make_case(Draw::mixed, {kLength}, 2, 22);
  DeviceCase before(one);
  run(before, one, Schedule::cut, 5);
  const auto out_before = before.out.host();
  bool causal = true;
  for (int t = 1; t < kLength; t += step) {
    Case changed = one;
    for (size_t i = static_cast<size_t>(t) * 2 * kD; i < changed.q.size(); i++) {
      changed.q[i] = __float2bfloat16(1.5f), changed.k[i] = __float2bfloat16(-static_cast<float>(i % 7)),
      changed.v[i] = __float2bfloat16(9.f);
      changed.z[i] = __float2bfloat16(i % 2 ? 60.f : -60.f);
    }
    for (size_t i = static_cast<size_t>(t) * 2; i < changed.beta.size(); i++) changed.beta[i] = __float2bfloat16(3.f);
    DeviceCase after(changed);
    run(after, changed, Schedule::cut, 5);
    const size_t n = static_cast<size_t>(t) * 2 * kD;
    const auto out_after = after.out.host();
    causal = causal && same_bits(out_before, out_after, n) && !same_bits(out_before, out_after, n + 1);
  }
  verdict(causal, "outputs before token t do not depend on tokens from t on, in bits");
}

void check_edges() {
  // No tokens: states pass.
  const Case none = make_case(Draw::trained, {0, 0, 0}, 2, 5);
  DeviceCase d(none);
  const auto before = d.state.host();
  run(d, none, Schedule::cut, 0);
  verdict(same_bits(d.state.host(), before, before.size()), "no tokens: states stay");

  // Negative slots: zero state in, none out.
  Case c = make_case(Draw::trained, {1000}, 2, 6);
  DeviceCase skip(c);
  skip.slots.copy_from({-1});
  const auto state_before = skip.state.host();
  run(skip, c, Schedule::cut, 6);
  std::fill(c.state.begin(), c.state.end(), 0.f);
  const Error e = compare(skip.out.host(), reference(c).out);
  verdict(accept(e) && same_bits(skip.state.host(), state_before, state_before.size()),
          "negative slot: zero state in, none out: " + show(e));

  // Checkpoints are for whole chains.
  DeviceArray<float> checkpoints((c.N() / kKdaSm90Chunk + 1) * c.H * kState);
  skip.args.checkpoints = checkpoints.get();
  DeviceArray<char> workspace(sm90::workspace_bytes(c.N(), 1, c.H, Schedule::cut));
  verdict(sm90::launch_prefill(skip.args, workspace.get(), Schedule::cut, 6, stream()) == cudaErrorNotSupported,
          "a cut with checkpoints is refused");
}

}  // namespace
}  // namespace linnet::ops::sm90_check

int main(int argc, char** argv) {
  using namespace linnet::ops::sm90_check;
  return run_checks(argc, argv, [](const std::string& mode) {
    check_accuracy(is_short(mode));
    check_bits(is_short(mode) ? 2 : 100);
    check_edges();
    if (is_short(mode)) return;
    check_causality(37);
    for (const Draw draw : {Draw::trained, Draw::weak, Draw::zero, Draw::mixed}) check_long(draw, 8191, 2);
    check_long(Draw::bounded, 8191, 4);
  });
}
