// Checks the options of the Hopper KDA prefill (KdaPrefillSm90) against the definition in double: every gate, type, width of heads, number of q
// and k heads, norm, form of beta and stride with every other; and in bits what must not depend on them. Modes: `bench` then times each gate and type beside
// the layer's call; `sanitize` is short, for compute-sanitizer, `emulated` for the emulated GPU. The layer's call itself: linear_attn_sm90_check.cu.
#include "ops/linear_attn/linear_attn_sm90_launch.cuh"
#include "ops/linear_attn/linear_attn_sm90_options_case.cuh"
#include "ops/linear_attn/linear_attn_sm90_timing.cuh"
#include "ops/linear_attn/linear_attn_sm90_verdict.cuh"

namespace linnet::ops::sm90_check {
namespace {

using sm90::Schedule;
constexpr KdaGate kGates[] = {KdaGate::softplus, KdaGate::lower_bound, KdaGate::log_decay, KdaGate::head_softplus,
                              KdaGate::head_log_decay};
const std::vector<int64_t> kLengths = {1, 0, 15, 17, 64, 65, 200};

std::string name_of(const Options& o) {
  char text[128];
  std::snprintf(text, sizeof text, "%s %s, heads of %d, %d for q%s%s%s", kGateNames[static_cast<int>(o.gate)],
                o.input == KdaInput::f16 ? "f16" : "bf16", o.head_dim, o.n_qk_heads,
                o.normalize ? "" : ", q and k as given", o.beta_values ? ", beta values" : "",
                o.strided ? ", strided" : "");
  return text;
}

struct Answer {
  std::vector<float> out, state;
  bool gaps_kept = true;
};

Answer run(OptionDevice& d, const OptionCase& c, Schedule schedule, int n_lanes = 0) {
  d.reset(c);
  DeviceArray<char> workspace(sm90::workspace_bytes(c.N(), c.B(), c.H, schedule));
  workspace.poison();
  LINNET_CUDA_OK(sm90::launch_prefill(d.args, workspace.get(), schedule, n_lanes, stream()));
  Answer a;
  a.out = d.out.host(c.options.input, a.gaps_kept);
  a.state = DeviceCase::permuted(d.state.host(), c.B());
  return a;
}

bool same(const Answer& a, const Answer& b) {
  return same_bits(a.out, b.out, a.out.size()) && same_bits(a.state, b.state, a.state.size());
}

// One set of options by each schedule; prints what fails. The larger of the errors of out and state goes to worst.
void check_one(const Options& o, unsigned seed, Error& worst) {
  const OptionCase c = make_option_case(o, kLengths, 4, seed);
  OptionDevice d(c);
  const Answer beside = run(d, c, Schedule::beside, 3), in_turn = run(d, c, Schedule::in_turn);
  const Answer cut = o.head_dim == kD ? run(d, c, Schedule::cut, 3) : in_turn;  // narrow heads are not cut
  const Result ref = reference(c);
  for (const Answer* a : {&beside, &cut}) {
    const Error out = compare(a->out, ref.out, o.head_dim), state = compare(a->state, ref.state, o.head_dim);
    for (const Error& e : {out, state}) {
      worst.rms = std::max(worst.rms, e.rms), worst.worst_row = std::max(worst.worst_row, e.worst_row);
      worst.finite = worst.finite && e.finite;
    }
    if (!accept(out) || !accept(state))
      verdict(false, name_of(o) + (a == &cut ? ", cut" : "") + ": out " + show(out) + ", state " + show(state));
  }
  if (!same(beside, in_turn)) verdict(false, name_of(o) + ": expected the same bits by each schedule");
  if (!beside.gaps_kept) verdict(false, name_of(o) + ": wrote between the rows of out");
}

void check_all(int head_dim, bool few) {
  unsigned seed = 300;
  for (const KdaGate gate : kGates) {
    for (const KdaInput input : {KdaInput::bf16, KdaInput::f16}) {
      Error worst{0, 0, true};
      const int before = failures;
      for (int i = 0; i < 24; i++) {
        if (few && i % 11 != 0) continue;
        const int qk_heads[] = {0, 2, 1};
        check_one({gate, input, qk_heads[i % 3], i / 3 % 2 == 0, i / 6 % 2 == 1, i / 12 == 1, head_dim}, seed++, worst);
      }
      verdict(failures == before, std::string("all options with ") + kGateNames[static_cast<int>(gate)] +
                                      (input == KdaInput::f16 ? " f16" : " bf16") + ", heads of " +
                                      std::to_string(head_dim) + ": worst " + show(worst));
    }
  }
}

// The heads' q and k repeated: the same call without groups.
OptionCase ungrouped(OptionCase c) {
  const auto repeat = [&](const std::vector<float>& x) {
    std::vector<float> y;
    for (size_t row = 0; row < x.size(); row += c.D())
      for (int i = 0; i < c.H / c.Hqk; i++) y.insert(y.end(), x.begin() + row, x.begin() + row + c.D());
    return y;
  };
  c.q = repeat(c.q), c.k = repeat(c.k);
  c.Hqk = c.H, c.options.n_qk_heads = 0;
  return c;
}

void check_bits(int D, bool small) {
  for (const KdaGate gate : kGates) {
    const std::string name = kGateNames[static_cast<int>(gate)] + (", heads of " + std::to_string(D));
    const OptionCase c = make_option_case({.gate = gate, .n_qk_heads = 2, .head_dim = D},
                                          {small ? 200 : 700, 0, small ? 133 : 333, 64}, 4, 31);
    OptionDevice d(c);
    const Answer one = run(d, c, Schedule::beside);
    bool any_lanes = true, again = true;
    for (const int lanes : {1, 2, 5, 11}) any_lanes = any_lanes && same(one, run(d, c, Schedule::beside, lanes));
    for (int i = 0; i < (small ? 2 : 20); i++)
      again = again && same(one, run(d, c, i % 2 ? Schedule::in_turn : Schedule::beside));
    verdict(any_lanes && again, name + ": one answer, whatever the number of scanning CTAs, time and again");

    const OptionCase repeated = ungrouped(c);
    OptionDevice dense(repeated);
    OptionCase strided = repeated;
    strided.options.strided = true;
    OptionDevice gaps(strided);
    // Dense and ungrouped softplus and lower_bound of bf16 are the layer's call: other builds of the kernels.
    verdict(same(one, run(dense, repeated, Schedule::beside)) && same(one, run(gaps, strided, Schedule::beside)),
            name + ": grouped heads, repeated heads, and repeated heads with strides: the same bits");

    bool causal = true;
    for (const int t : {1, 15, 16, 63, 64, 100}) {
      if (small && t != 15 && t != 64) continue;
      OptionCase changed = c;
      const auto after = [&](std::vector<float>& x, size_t width, float value) {
        std::fill(x.begin() + t * width, x.end(), value);
      };
      after(changed.q, 2 * D, 1.5f), after(changed.k, 2 * D, -2.f), after(changed.v, 4 * D, 9.f);
      after(changed.z, 4 * c.z_width(), is_log_decay(gate) ? -1000.f : 60.f), after(changed.beta, 4, 3.f);
      OptionDevice other(changed);
      const Answer a = run(other, changed, Schedule::beside);
      const size_t n = static_cast<size_t>(t) * 4 * D;
      causal = causal && same_bits(one.out, a.out, n) && !same_bits(one.out, a.out, n + D);
    }
    verdict(causal, name + ": outputs before token t do not depend on tokens from t on, in bits");
  }
}

// Complete decay must forget the state in full, whatever it was: a state of 1e30 leaves nothing.
void check_forgetting(int head_dim) {
  for (const float z : {-1000.f, -INFINITY}) {
    for (const KdaGate gate : {KdaGate::log_decay, KdaGate::head_log_decay}) {
      OptionCase c = make_option_case({.gate = gate, .head_dim = head_dim}, {70}, 1, 33), empty = c;
      for (OptionCase* x : {&c, &empty}) std::fill_n(x->z.begin(), x->z_width(), z);
      std::fill(c.state.begin(), c.state.end(), 1e30f);
      std::fill(empty.state.begin(), empty.state.end(), 0.f);
      OptionDevice full(c), none(empty);
      verdict(same(run(full, c, Schedule::beside), run(none, empty, Schedule::beside)),
              std::string(kGateNames[static_cast<int>(gate)]) + ": a log decay of " + std::to_string(z) +
                  " leaves nothing of the state, in bits, heads of " + std::to_string(head_dim));
    }
  }
}

// Needs no GPU.
void check_refusals() {
  const auto refused = [](auto change) {
    KdaPrefillSm90 a = {.token_stride = 4 * kD, .n_sequences = 1, .n_heads = 4};
    change(a);
    return kda_prefill_sm90(a, nullptr, nullptr) == cudaErrorInvalidValue;
  };
  verdict(refused([](auto& a) { a.n_qk_heads = 3; }) && refused([](auto& a) { a.n_qk_heads = 8; }) &&
              refused([](auto& a) { a.n_qk_heads = -1; }),
          "q and k heads that do not divide the heads are refused");
  verdict(refused([](auto& a) { a.out_stride = 516; }) && refused([](auto& a) { a.qk_stride = 516; }) &&
              refused([](auto& a) { a.z_stride = 516; }) &&
              refused([](auto& a) { a.gate.gate = KdaGate::log_decay, a.z_stride = 514; }) &&
              refused([](auto& a) { a.qk_stride = 1ll << 32; }) && refused([](auto& a) { a.token_stride = -512; }),
          "strides that do not fit are refused");
  verdict(refused([](auto& a) { a.input = static_cast<KdaInput>(2); }) &&
              refused([](auto& a) { a.state_type = static_cast<KdaStateType>(2); }) &&
              refused([](auto& a) { a.gate.gate = static_cast<KdaGate>(5); }),
          "types and gates that do not exist are refused");
  verdict(refused([](auto& a) { a.head_dim = -64; }) && refused([](auto& a) { a.head_dim = 60; }) &&
              refused([](auto& a) { a.head_dim = 136; }),
          "heads of other widths are refused");
  const KdaDecodeSm90 decode = {.n_sequences = 1, .n_heads = 1, .gate = {.gate = KdaGate::log_decay}};
  const KdaVerifySm90 verify = {.n_sequences = 1, .n_heads = 1, .n_tokens = 1, .gate = {.gate = KdaGate::log_decay}};
  verdict(kda_decode_sm90(decode, nullptr) == cudaErrorNotSupported &&
              kda_verify_sm90(verify, nullptr) == cudaErrorNotSupported,
          "decode and verify refuse prefill's gates");
}

// Needs no GPU.
void check_workspaces() {
  using sm90::launch_prefill;
  KdaPrefillSm90 a = {.token_stride = 32 * kD, .n_sequences = 1, .n_heads = 32, .n_tokens = 8192};
  const int64_t some = static_cast<int64_t>(kda_prefill_sm90_workspace_bytes(a));
  a.n_tokens = 1 << 20;  // records of 34 GB
  const int64_t many = static_cast<int64_t>(kda_prefill_sm90_workspace_bytes(a));
  verdict(some < 320ll << 20 && many < 2400ll << 20, "a million tokens need no more than 2.35 GiB of workspace");
  a.n_tokens = 8192;
  float none;
  a.checkpoints = &none;
  verdict(launch_prefill(a, nullptr, Schedule::cut, 0, nullptr) == cudaErrorNotSupported,
          "checkpoints of chains that are cut are refused");
  a.head_dim = 64;
  verdict(kda_prefill_sm90(a, nullptr, nullptr) == cudaErrorNotSupported, "checkpoints of narrow heads are refused");
  a.checkpoints = nullptr;
  verdict(launch_prefill(a, nullptr, Schedule::cut, 0, nullptr) == cudaErrorNotSupported,
          "cuts of narrow heads are refused");
}

// 8,192 tokens of 32 heads. Host generation is slow: some tokens, repeated.
void bench(int argc, char** argv) {
  const double bandwidth = begin_bench(argc, argv);
  constexpr int T = 8192, H = 32, kTile = 256;
  const auto time = [&](Options o, const char* what) {
    OptionCase c = make_option_case(o, {kTile}, H, 3);
    for (auto* x : {&c.q, &c.k, &c.v, &c.z, &c.beta}) {
      const size_t tile = x->size();
      x->resize(tile * (T / kTile));
      for (size_t i = tile; i < x->size(); i++) (*x)[i] = (*x)[i - tile];
    }
    c.start = {0, T};
    OptionDevice d(c);
    DeviceArray<char> workspace(kda_prefill_sm90_workspace_bytes(d.args));
    const Times t = time_us(40, [&] { LINNET_CUDA_OK(kda_prefill_sm90(d.args, workspace.get(), stream())); });
    const double z_bytes = c.z_width() * (is_log_decay(o.gate) ? 4 : 2);
    const double bytes = static_cast<double>(T) * (H * (4 * kD + 2 + z_bytes) + 4.0 * c.Hqk * kD) + 8.0 * H * kD * kD;
    report("kda_prefill", std::string("B1 T8192 H32 ") + what, bytes / bandwidth, t, name_of(o));
  };
  time({}, "layer");
  time({.strided = true}, "layer, strided");
  time({.gate = KdaGate::lower_bound, .strided = true}, "bounded, strided");
  for (const KdaInput input : {KdaInput::bf16, KdaInput::f16}) {
    const bool f16 = input == KdaInput::f16;
    time({.gate = KdaGate::softplus, .input = input, .beta_values = true}, f16 ? "softplus f16" : "softplus, values");
    time({.gate = KdaGate::log_decay, .input = input, .normalize = false, .beta_values = true},
         f16 ? "log decay f16" : "log decay");
    time({.gate = KdaGate::head_log_decay, .input = input, .n_qk_heads = 16, .beta_values = true},
         f16 ? "GDN f16" : "GDN");
  }
}

}  // namespace
}  // namespace linnet::ops::sm90_check

int main(int argc, char** argv) {
  using namespace linnet::ops::sm90_check;
  check_refusals();
  check_workspaces();
  if (mode_of(argc, argv) == "refusals") return failures ? 1 : 0;
  const auto checks = [](const std::string& mode) {
    for (const int head_dim : {128, 64, 120}) {
      if (is_emulated(mode) && head_dim == 120) continue;
      check_all(head_dim, is_short(mode));
      if (mode != "sanitize") check_bits(head_dim, is_emulated(mode)), check_forgetting(head_dim);
    }
  };
  return run_checks(argc, argv, checks, bench);
}
