// Checks the plain recurrence on Hopper, both of its kernels, against the definition in double, and in bits: determinism, tokens in one call or
// in many, a sequence alone. Modes: `bench` then times it (linear_attn_sm90_recurrent_bench.cu); `sanitize` is short, for compute-sanitizer.
#include <functional>

#include "ops/linear_attn/linear_attn_sm90_recurrent_case.cuh"

namespace linnet::ops::sm90 {
cudaError_t launch_recurrent_columns(const KdaRecurrentSm90& args, cudaStream_t stream);
}

namespace linnet::ops::sm90_check {

void bench_recurrent(int argc, char** argv);

namespace {

// f32 arithmetic over up to 130 tokens, and rounding to nearest in the type of the result: half a unit in the last place of each element.
double bound(KdaType type) {
  return 5e-6 + (type == KdaType::f32 ? 0 : std::ldexp(1, type == KdaType::f16 ? -11 : -9));
}
// ||x - ref|| / ||ref||
double error_of(const std::vector<char>& x, KdaType type, const std::vector<double>& ref) {
  double e2 = 0, r2 = 1e-300;
  for (size_t i = 0; i < ref.size(); i++) {
    const double d = value_at(x.data(), type, i) - ref[i];
    e2 += std::isfinite(d) ? d * d : 1e300;
    r2 += ref[i] * ref[i];
  }
  return std::sqrt(e2 / r2);
}

std::string show(const RecurrentOptions& o) {
  constexpr const char* kTypes[] = {"f32", "f16", "bf16"};
  constexpr const char* kGates[] = {"log decay", "softplus", "bounded"};
  const auto name = [&](KdaType t) { return kTypes[static_cast<int>(t)]; };
  char text[200];
  std::snprintf(text, sizeof text, "B%d N%d K%d V%d H%d/%d %s g %s beta %s state %s%s, %s%s%s%s%s%s", o.B(),
                static_cast<int>(o.N()), o.K, o.V, o.Hk, o.H, name(o.type), name(o.g_type), name(o.beta_type),
                name(o.state_type), o.v_first ? " values first" : "", kGates[static_cast<int>(o.gate)],
                o.normalize ? "" : ", no norm", o.logits ? "" : ", beta values", o.per_value ? " per column" : "",
                o.no_starts ? ", equal lengths" : "", o.no_state ? ", from zero" : "");
  return text;
}

using Launch = int (*)(const KdaRecurrentSm90&, CUstream_st*);
int by_columns(const KdaRecurrentSm90& a, CUstream_st* stream) { return sm90::launch_recurrent_columns(a, stream); }

// Against the definition, by the kernel that the call takes; where that is the one for whole heads, by the other one, too.
void check_case(const RecurrentOptions& o) {
  const RecurrentCase c(o, 7);
  const RecurrentResult ref = reference(c, false);
  const bool heads = o.K == o.V && (o.K == 64 || o.K == 128);
  for (const Launch launch : {static_cast<Launch>(kda_recurrent_sm90), by_columns}) {
    if (launch == by_columns && !heads) continue;
    RecurrentOnDevice d(c);
    LINNET_CUDA_OK(launch(d.args, stream()));
    const double out = error_of(d.out.host(), o.type, ref.out), last = error_of(d.state.host(), o.state_type, ref.last);
    char text[80];
    std::snprintf(text, sizeof text, "%s: out %.2e state %.2e", launch == by_columns ? ", columns" : "", out, last);
    verdict(out <= bound(o.type) && last <= bound(o.state_type), show(o) + text);
  }
}

// States in a pool, by slots: where each sequence begins, and the state after each of its tokens; padding.
void check_slots(RecurrentOptions o) {
  constexpr int kTokens = 3;
  o.lengths = std::vector<int64_t>(5, kTokens);
  const RecurrentCase c(o, 8);
  const RecurrentResult ref = reference(c, true);
  const size_t one = o.one() * o.H, bytes = bytes_of(o.state_type);
  const int B = o.B(), n_slots = B * kTokens + B;
  for (const Launch launch : {static_cast<Launch>(kda_recurrent_sm90), by_columns}) {
    RecurrentOnDevice d(c);
    // Sequence b begins in the slot of its token accepted - 1, which its token writes in its turn; sequence 2 is padding; token 1 of
    // sequence 3 has no slot.
    std::vector<int32_t> slots(B * kTokens), accepted(B);
    std::vector<char> pool(n_slots * (one + 8) * bytes, 0x3e);
    for (int b = 0; b < B; b++) {
      accepted[b] = 1 + b % kTokens;
      for (int t = 0; t < kTokens; t++) slots[b * kTokens + t] = n_slots - 1 - (b * kTokens + t) * 7 % n_slots;
      if (b == 3) slots[b * kTokens + 1] = -1, accepted[b] = 1;
      const int first = slots[b * kTokens + accepted[b] - 1];
      std::memcpy(&pool[first * (one + 8) * bytes], &c.state.bytes[b * one * bytes], one * bytes);
      if (b == 2) slots[b * kTokens + accepted[b] - 1] = -1;
    }
    DeviceArray<char> d_pool(pool);
    DeviceArray<int32_t> d_slots(slots), d_accepted(accepted);
    d.args.state_in = d.args.state_out = d_pool.get();
    d.args.state_stride = one + 8;
    d.args.slots = d_slots.get();
    d.args.n_accepted = d_accepted.get();
    d.args.slots_stride = kTokens;
    LINNET_CUDA_OK(launch(d.args, stream()));
    const auto out = d.out.host(), after = d_pool.host();
    const size_t out_bytes = static_cast<size_t>(kTokens) * o.H * o.V * bytes_of(o.type);
    std::vector<char> expected_pool = pool;
    double worst = 0;
    bool padding = true;
    for (int b = 0; b < B; b++) {
      if (b == 2) {
        for (size_t i = 0; i < out_bytes; i++) padding = padding && out[b * out_bytes + i] == static_cast<char>(0xff);
        continue;
      }
      const std::vector<char> mine(&out[b * out_bytes], &out[b * out_bytes] + out_bytes);
      const size_t n = static_cast<size_t>(kTokens) * o.H * o.V;
      worst = std::max(worst, error_of(mine, o.type, {&ref.out[b * n], &ref.out[b * n] + n}) / bound(o.type));
      for (int t = 0; t < kTokens; t++) {
        const int slot = slots[b * kTokens + t];
        if (slot < 0) continue;
        const size_t at = slot * (one + 8) * bytes, from = (b * kTokens + t) * one;
        const std::vector<char> state(&after[at], &after[at] + one * bytes);
        worst = std::max(
            worst, error_of(state, o.state_type, {&ref.states[from], &ref.states[from] + one}) / bound(o.state_type));
        std::copy_n(&after[at], one * bytes, &expected_pool[at]);
      }
    }
    verdict(worst <= 1 && padding && after == expected_pool,
            "slots, " + show(o) + (launch == by_columns ? ", columns" : "") + ": worst error over its bound " +
                std::to_string(worst) + (padding ? "" : ", PADDING WRITTEN") +
                (after == expected_pool ? "" : ", OTHER SLOTS CHANGED"));
  }
}

// In bits, with states in f32: again, token by token in as many calls, and each sequence alone.
void check_bits(bool v_first, int width) {
  RecurrentOptions o;
  o.lengths = std::vector<int64_t>(7, 9);
  o.K = o.V = width;
  o.v_first = v_first;
  o.no_starts = true;
  const RecurrentCase c(o, 9);
  RecurrentOnDevice d(c);
  LINNET_CUDA_OK(kda_recurrent_sm90(d.args, stream()));
  const auto out = d.out.host(), state = d.state.host();
  bool again = true;
  for (int i = 0; i < 5; i++) {
    RecurrentOnDevice r(c);
    LINNET_CUDA_OK(kda_recurrent_sm90(r.args, stream()));
    again = again && r.out.host() == out && r.state.host() == state;
  }
  // Call t: token t of every sequence, as sequences of one token (rows lie nine tokens apart: by seq_start, one sequence a call).
  RecurrentOnDevice s(c);
  const size_t token = static_cast<size_t>(o.H) * width * 2;
  for (int b = 0; b < o.B(); b++) {
    for (int t = 0; t < 9; t++) {
      const size_t n = b * 9 + t;
      KdaRecurrentSm90 a = s.args;
      a.q = s.q.get() + n * token, a.k = s.k.get() + n * token, a.v = s.v.get() + n * token,
      a.g = s.g.get() + n * token;
      a.beta = s.beta.get() + n * o.H * 2, a.out = s.out.get() + n * token;
      a.state_in = a.state_out = s.state.get() + b * o.one() * o.H * 4;
      a.n_sequences = a.n_tokens = 1;
      LINNET_CUDA_OK(kda_recurrent_sm90(a, stream()));
    }
  }
  verdict(again && s.out.host() == out && s.state.host() == state,
          std::string("heads of ") + std::to_string(width) + (v_first ? ", values first" : "") +
              ": five runs one answer, and that of one token of one sequence a call");
}

void check_widths_and_types() {
  RecurrentOptions o;
  o.lengths = {1, 0, 2, 3, 4, 5, 17};
  for (const KdaType state : {KdaType::f32, KdaType::bf16}) {
    for (const bool v_first : {false, true}) {
      o.state_type = state;
      o.v_first = v_first;
      for (const int width : {64, 128}) {
        o.K = o.V = width;
        check_case(o);
        check_slots(o);
      }
      for (const auto& [K, V] : {std::pair{128, 64}, {64, 128}, {60, 60}, {100, 36}, {256, 256}}) {
        o.K = K, o.V = V;
        check_case(o);
      }
    }
  }
}

void check_options() {
  using Change = std::function<void(RecurrentOptions&)>;
  const std::vector<Change> changes = {
      [](auto& o) {
        o.lengths = {130, 64, 1};
      },
      [](auto& o) {
        o.lengths = {5, 5, 5}, o.no_starts = true;
      },
      [](auto& o) {
        o.lengths = {0, 0}, o.no_starts = true;
      },
      [](auto& o) {
        o.lengths = {1, 4}, o.no_state = true;
      },
      [](auto& o) { o.type = o.g_type = o.beta_type = KdaType::f32; },
      [](auto& o) { o.type = o.g_type = o.beta_type = KdaType::f16; },
      [](auto& o) { o.g_type = KdaType::f32, o.gate = KdaRecurrentGate::log_decay, o.logits = false; },
      [](auto& o) { o.type = KdaType::f32, o.beta_type = KdaType::f32; },
      [](auto& o) { o.gate = KdaRecurrentGate::lower_bound; },
      [](auto& o) { o.normalize = false; },
      [](auto& o) { o.beta_max = 2; },
      [](auto& o) { o.per_value = true; },
      [](auto& o) { o.per_value = true, o.logits = false, o.beta_type = KdaType::f32; },
      [](auto& o) { o.Hk = 2, o.H = 6; },
  };
  for (const Change& change : changes) {
    for (const int width : {64, 128}) {
      for (const bool v_first : {false, true}) {
        RecurrentOptions o;
        o.lengths = {1, 6, 3};
        o.K = o.V = width;
        o.v_first = v_first;
        change(o);
        check_case(o);
      }
    }
  }
}

void check_refusals() {
  const RecurrentCase c({}, 1);
  RecurrentOnDevice d(c);
  const auto refused = [&](auto change) {
    KdaRecurrentSm90 a = d.args;
    change(a);
    return kda_recurrent_sm90(a, stream()) == cudaErrorInvalidValue;
  };
  verdict(refused([](auto& a) { a.k_dim = 260; }) && refused([](auto& a) { a.v_dim = 126; }) &&
              refused([](auto& a) { a.n_heads = 3; }) && refused([](auto& a) { a.state_type = KdaType::f16; }) &&
              refused([](auto& a) { a.state_in = static_cast<const char*>(a.state_in) + 8; }),
          "widths, heads, types and places of states that it does not take are refused");
}

void checks(const std::string& mode) {
  if (mode == "sanitize") {
    for (const int width : {64, 128, 100}) {
      for (const bool v_first : {false, true}) {
        RecurrentOptions o;
        o.lengths = {1, 7, 0, 2};
        o.K = o.V = width;
        o.v_first = v_first;
        check_case(o);
      }
    }
    return;
  }
  check_widths_and_types();
  check_options();
  for (const bool v_first : {false, true})
    for (const int width : {64, 128}) check_bits(v_first, width);
  check_refusals();
}

}  // namespace
}  // namespace linnet::ops::sm90_check

int main(int argc, char** argv) {
  using namespace linnet::ops::sm90_check;
  return run_checks(argc, argv, checks, bench_recurrent);
}
