// Checks the Hopper KDA prefill kernels against the definition in double, and the properties that no tolerance covers: determinism,
// causality and split invariance in bits. Modes: `bench` then times them (linear_attn_sm90_bench.cu); `prep` times prep alone; `sanitize`
// is short, for compute-sanitizer, `emulated` has small shapes, for the emulated GPU. Decode: linear_attn_sm90_decode_check.cu.
#include "ops/linear_attn/linear_attn_sm90_launch.cuh"
#include "ops/linear_attn/linear_attn_sm90_verdict.cuh"

namespace linnet::ops::sm90_check {

void bench(int argc, char** argv);
void profile();
void tune();
void prep_alone();

namespace {

void check_accuracy(bool small) {
  const std::vector<int64_t> lengths =
      small ? std::vector<int64_t>{1, 15, 0, 17, 63, 64, 65, 129, 0, 200}
            : std::vector<int64_t>{1, 15, 16, 0, 17, 63, 64, 65, 127, 128, 129, 200, 0, 1000};
  for (int draw = 0; draw < 10; draw++) {
    const Case c = make_case(static_cast<Draw>(draw), lengths, 3, 100 + draw);
    DeviceCase d(c);
    d.run();
    const Result ref = reference(c);
    const Error out = compare(d.out.host(), ref.out),
                state = compare(DeviceCase::permuted(d.state.host(), c.B()), ref.state);
    verdict(accept(out) && accept(state),
            std::string("prefill ragged, ") + kDrawNames[draw] + ": out " + show(out) + ", state " + show(state));
  }
  for (const Draw draw : {Draw::trained, Draw::weak}) {
    const int64_t length = small ? 511 : 8191;
    const Case c = make_case(draw, {length}, 2, 7, true);
    DeviceCase d(c);
    d.args.state_in = nullptr;
    d.args.seq_start = d.start64.get();
    d.args.seq_start_is_64 = true;
    d.run();
    const Result ref = reference(c);
    const Error out = compare(d.out.host(), ref.out), state = compare(d.state.host(), ref.state);
    verdict(accept(out) && accept(state), "prefill " + std::to_string(length) + " tokens, no initial state, int64, " +
                                              kDrawNames[static_cast<int>(draw)] + ": out " + show(out) + ", state " +
                                              show(state));
  }
  const int n_sequences = small ? 7 : 40;
  const Case c = make_case(Draw::trained, std::vector<int64_t>(n_sequences, 130), 4, 8);
  DeviceCase d(c);
  d.run();
  const Result ref = reference(c);
  const Error out = compare(d.out.host(), ref.out),
              state = compare(DeviceCase::permuted(d.state.host(), c.B()), ref.state);
  verdict(accept(out) && accept(state), "prefill " + std::to_string(n_sequences) + " sequences x 4 heads: out " +
                                            show(out) + ", state " + show(state));
}

// A state that nothing is written to is the first one decayed: what rates are off by adds up over the tokens. FLA's is off by 2.7e-3.
void check_decay() {
  const Case c = make_case(Draw::beta_zero, {8191}, 2, 9);
  DeviceCase d(c);
  d.run();
  const Error state = compare(DeviceCase::permuted(d.state.host(), c.B()), reference(c).state);
  verdict(state.rms < 1.5e-3, "a state decays over 8191 tokens as its rates say: state " + show(state));
}

void check_bits(bool small) {
  const Case c = make_case(Draw::trained, {700, 333, 64}, 4, 21);
  DeviceCase d(c);
  d.run();
  const auto out = d.out.host();
  const auto state = d.state.host();
  bool same = true;
  const int n_runs = small ? 3 : 100;
  for (int i = 0; i < n_runs; i++) {
    d.reset(c);
    d.run();
    same = same && same_bits(d.out.host(), out, out.size()) && same_bits(d.state.host(), state, state.size());
  }
  verdict(same, std::to_string(n_runs) + " runs, one answer");

  bool any_lanes = true;
  struct Way {
    sm90::Schedule schedule;
    int n_windows;
  };
  for (const Way& way :
       {Way{sm90::Schedule::in_turn, 0}, Way{sm90::Schedule::beside, 1}, Way{sm90::Schedule::beside, 2},
        Way{sm90::Schedule::beside, 5}, Way{sm90::Schedule::split, 1}, Way{sm90::Schedule::split, 3}}) {
    DeviceArray<char> workspace(sm90::workspace_bytes(c.N(), c.B(), c.H, way.schedule, way.n_windows));
    for (const int n_lanes : {0, 1, 2, 3, 5, 7, 11, 12, 47, 120}) {
      if (small && n_lanes > 3) break;
      d.reset(c);
      workspace.poison();
      LINNET_CUDA_OK(sm90::launch_prefill(d.args, workspace.get(), way.schedule, n_lanes, stream(), way.n_windows));
      any_lanes =
          any_lanes && same_bits(d.out.host(), out, out.size()) && same_bits(d.state.host(), state, state.size());
    }
  }
  verdict(any_lanes, "the same bits by each schedule, whatever the numbers of scanning CTAs and of windows");

  bool causal = true;
  const Case one = make_case(Draw::mixed, {200}, 2, 22);
  DeviceCase before(one);
  before.run();
  const auto out_before = before.out.host();
  for (int t = 1; t < 200; t += small ? 39 : 3) {
    Case changed = one;
    for (int64_t i = static_cast<int64_t>(t) * 2 * kD; i < static_cast<int64_t>(changed.q.size()); i++) {
      changed.q[i] = __float2bfloat16(1.5f), changed.k[i] = __float2bfloat16(-static_cast<float>(i % 7)),
      changed.v[i] = __float2bfloat16(9.f);
      changed.z[i] = __float2bfloat16(i % 2 ? 60.f : -60.f);
    }
    for (size_t i = static_cast<size_t>(t) * 2; i < changed.beta.size(); i++) changed.beta[i] = __float2bfloat16(3.f);
    DeviceCase after(changed);
    after.run();
    const size_t n = static_cast<size_t>(t) * 2 * kD;
    const auto out_after = after.out.host();
    causal = causal && same_bits(out_before, out_after, n) && !same_bits(out_before, out_after, n + 1);
  }
  verdict(causal, "outputs before token t do not depend on tokens from t on, in bits");

  // The same sequence in two calls, cut at 64 and 128.
  bool split_same = true;
  for (const int cut : {64, 128}) {
    DeviceCase part(one);
    std::vector<int32_t> start = {0, cut};
    part.start32.copy_from(start);
    part.args.n_tokens = cut;
    part.run();
    start[1] = 200 - cut;
    part.start32.copy_from(start);
    part.args.n_tokens = 200 - cut;
    const size_t offset = static_cast<size_t>(cut) * 2 * kD;
    part.args.q = part.q.get() + offset, part.args.k = part.k.get() + offset, part.args.v = part.v.get() + offset;
    part.args.z = part.z.get() + offset, part.args.beta = part.beta.get() + cut * 2,
    part.args.out = part.out.get() + offset;
    part.run();
    split_same = split_same && same_bits(part.out.host(), out_before, out_before.size()) &&
                 same_bits(part.state.host(), before.state.host(), before.state.size());
  }
  verdict(split_same, "one call and two calls cut at 64 or 128: same bits");

  // Negative slots: nothing read, nothing written.
  DeviceCase skip(one);
  skip.slots.copy_from({-1});
  const auto state_before = skip.state.host();
  skip.run();
  Case zero = one;
  std::fill(zero.state.begin(), zero.state.end(), 0.f);
  const Error e = compare(skip.out.host(), reference(zero).out);
  verdict(accept(e) && same_bits(skip.state.host(), state_before, state_before.size()),
          "negative slot: zero state in, none out: " + show(e));
}

// A chain of more chunks than the flags that the scan looks for at once, and no hole: all of them may be set, where prep is far ahead.
void check_long_chain(int n_runs) {
  using sm90::Schedule;
  const Case c = make_case(Draw::trained, {35 * sm90::kChunk}, 1, 23);
  DeviceCase d(c);
  const auto run = [&](Schedule schedule) {
    DeviceArray<char> workspace(sm90::workspace_bytes(c.N(), c.B(), c.H, schedule));
    workspace.poison();
    d.reset(c);
    LINNET_CUDA_OK(sm90::launch_prefill(d.args, workspace.get(), schedule, 0, stream()));
  };
  run(Schedule::in_turn);
  const auto out = d.out.host();
  const auto state = d.state.host();
  bool same = true;
  for (int i = 0; i < n_runs; i++) {
    run(i % 2 ? Schedule::split : Schedule::beside);
    same = same && same_bits(d.out.host(), out, out.size()) && same_bits(d.state.host(), state, state.size());
  }
  verdict(same, std::to_string(n_runs) + " runs of prep beside the scan of 35 chunks: the bits of the one in turn");
}

// One chunk's record against its definition in double: the factors of the state and the two triangular matrices.
void check_record(Draw draw, int n_valid) {
  using sm90::Record;
  const Case c = make_case(draw, {n_valid}, 1, 40 + n_valid);
  DeviceCase d(c);
  DeviceArray<char> record(sizeof(Record));
  LINNET_CUDA_OK(sm90::launch_prep(d.args, reinterpret_cast<Record*>(record.get()), 1, stream()));
  const auto bytes = record.host();
  const auto at = [&](size_t matrix, int row, int col) {
    const size_t panel = col / 64, piece = static_cast<size_t>(col % 64) / 8;
    __half h;
    std::memcpy(
        &h, bytes.data() + matrix + panel * sm90::kPanelBytes + row * 128 + ((piece ^ (row & 7)) << 4) + (col & 7) * 2,
        2);
    return static_cast<double>(__half2float(h));
  };
  constexpr int n = sm90::kChunk;
  std::vector<double> G(n * kD), q(n * kD), k(n * kD), beta(n), L(n * n), A(n * n), M(n * n);
  for (int i = 0; i < n; i++) {
    double qq = 1e-6, kk = 1e-6;
    for (int e = 0; e < kD; e++) {
      const bool in = i < n_valid;
      q[i * kD + e] = in ? __bfloat162float(c.q[i * kD + e]) : 0,
                 k[i * kD + e] = in ? __bfloat162float(c.k[i * kD + e]) : 0;
      G[i * kD + e] = (i ? G[(i - 1) * kD + e] : 0) + (in ? log_decay(c, 0, e, __bfloat162float(c.z[i * kD + e])) : 0);
      qq += q[i * kD + e] * q[i * kD + e], kk += k[i * kD + e] * k[i * kD + e];
    }
    for (int e = 0; e < kD; e++) q[i * kD + e] /= std::sqrt(qq), k[i * kD + e] /= std::sqrt(kk);
    beta[i] = i < n_valid ? 1 / (1 + std::exp(-static_cast<double>(__bfloat162float(c.beta[i])))) : 0;
    for (int j = 0; j <= i; j++) {
      for (int e = 0; e < kD; e++) {
        const double f = std::exp(G[i * kD + e] - G[j * kD + e]) * k[j * kD + e];
        A[i * n + j] += q[i * kD + e] * f;
        L[i * n + j] += beta[i] * k[i * kD + e] * f;
      }
    }
    for (int j = 0; j <= i; j++) {
      double m = i == j;
      for (int l = j; l < i; l++) m -= L[i * n + l] * M[l * n + j];
      M[i * n + j] = m;
    }
  }
  double worst[6] = {};
  for (int i = 0; i < n; i++) {
    for (int col = 0; col < kD; col++) {
      const int e = sm90::key_channel(col);
      const double in = std::exp(G[i * kD + e]), out = std::exp(G[(n - 1) * kD + e] - G[i * kD + e]);
      worst[0] = std::max(worst[0], std::abs(at(offsetof(Record, k_in), i, col) - k[i * kD + e] * in));
      worst[1] = std::max(worst[1], std::abs(at(offsetof(Record, q_in), i, col) - q[i * kD + e] * in));
      worst[2] = std::max(worst[2], std::abs(at(offsetof(Record, k_out), i, col) - k[i * kD + e] * out));
    }
    for (int j = 0; j < n; j++) {
      worst[3] = std::max(worst[3], std::abs(at(offsetof(Record, solve), i, j) - M[i * n + j] * beta[j]));
      worst[4] = std::max(worst[4], std::abs(at(offsetof(Record, attend), i, j) - A[i * n + j]));
    }
  }
  for (int col = 0; col < kD; col++) {
    float f;
    std::memcpy(&f, bytes.data() + offsetof(Record, decay) + col * 4, 4);
    worst[5] = std::max(worst[5], std::abs(f - std::exp(G[(n - 1) * kD + sm90::key_channel(col)])));
  }
  // f16 operands (2^-11 each, entries at most 1) and f32 sums: 1e-3 covers two roundings; the inverse adds its two joins.
  bool ok = true;
  for (int i = 0; i < 6; i++) ok = ok && worst[i] < (i == 3 ? 4e-3 : 1e-3);
  char text[160];
  std::snprintf(
      text, sizeof text,
      "record of %d tokens, %s: largest error k_in %.1e q_in %.1e k_out %.1e solve %.1e attend %.1e decay %.1e",
      n_valid, kDrawNames[static_cast<int>(draw)], worst[0], worst[1], worst[2], worst[3], worst[4], worst[5]);
  verdict(ok, text);
}

}  // namespace
}  // namespace linnet::ops::sm90_check

int main(int argc, char** argv) {
  using namespace linnet::ops::sm90_check;
  const std::string mode = mode_of(argc, argv);
  if (mode == "profile" || mode == "tune" || mode == "prep") {
    mode == "tune" ? tune() : mode == "prep" ? prep_alone() : profile();
    return 0;
  }
  const auto checks = [](const std::string& mode) {
    for (const Draw draw : {Draw::zero, Draw::trained, Draw::strong, Draw::cliffs, Draw::bounded, Draw::collinear})
      for (const int n : {64, 1, 17, 50}) check_record(draw, n);
    check_accuracy(is_emulated(mode));
    check_decay();
    check_long_chain(is_short(mode) ? 4 : 100);
    if (mode != "sanitize") check_bits(is_emulated(mode));
  };
  return run_checks(argc, argv, checks, bench);
}
