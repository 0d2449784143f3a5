// What the emulation must find: small kernels, right and with one mistake each. A kernel that is right passes whatever the order; of one with a
// mistake some order must give a report or a wrong answer.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "core/kernel_cuda.cuh"
#include "core/ptx_cuda.cuh"

namespace linnet {
namespace {

using namespace ptx;

enum class Fault {
  none,
  // of bulk: a bulk copy and its barrier
  no_wait,
  wrong_phase,
  too_few_bytes,
  too_many_arrivals_expected,
  one_arrival_more,
  no_init,
  no_sync_after_init,
  misaligned_copy,
  beyond_shared,
  ends_in_flight,
  // of pieces: 16-byte copies by groups
  waits_for_too_few,
  no_sync_after_copies,
  // of exchange: threads through shared memory, twice in the same place
  no_sync,
  no_sync_before_reuse,
  wrong_count,
  counts_differ,
  other_instruction,
  // of product: a warpgroup's product
  no_product_wait,
  no_product_fence,
  operands_differ,
  wrong_swizzle,
  overwritten_operand,
  // of two grids
  no_dependency_wait,
  waits_for_the_next_grid,
  // of CTAs that wait for each other, and of memory
  waits_for_a_cta_without_place,
  beyond_memory,
  misaligned_load,
};

constexpr int kN = 128;  // threads, values

// out = in, by way of shared memory.
template <Fault kFault>
__global__ void bulk(const float* in, float* out) {
  LINNET_DYNAMIC_SHARED(bytes, 128);
  LINNET_SHARED(full, uint64_t);
  const uint32_t to = smem_address(bytes), bar = smem_address(&full);
  const int t = static_cast<int>(threadIdx.x);
  constexpr uint32_t kBytes = kN * sizeof(float);
  if (t == 0 && kFault != Fault::no_init) {
    barrier_init(bar, kFault == Fault::too_many_arrivals_expected ? 2 : 1);
    fence_barrier_init();
  }
  if constexpr (kFault == Fault::no_sync_after_init) {
    if (t != 0) barrier_wait(bar, 0);
  }
  __syncthreads();
  if (t == 0) {
    barrier_expect(bar, kFault == Fault::too_few_bytes ? kBytes / 2 : kBytes);
    bulk_load(to + (kFault == Fault::beyond_shared ? 64 : 0), in + (kFault == Fault::misaligned_copy ? 1 : 0), kBytes,
              bar);
    if (kFault == Fault::one_arrival_more) barrier_arrive(bar), barrier_arrive(bar);
  }
  if (kFault == Fault::ends_in_flight) return;
  if (kFault != Fault::no_wait) barrier_wait(bar, kFault == Fault::wrong_phase ? 1 : 0);
  out[t] = reinterpret_cast<const float*>(bytes)[t];
}

// The same by 16-byte copies, in two groups.
template <Fault kFault>
__global__ void pieces(const float* in, float* out) {
  LINNET_DYNAMIC_SHARED(bytes, 128);
  const int t = static_cast<int>(threadIdx.x);
  for (int half = 0; half < 2; half++) {
    if (t < kN / 8) {
      const int at = half * kN / 2 + 4 * t;
      copy16(smem_address(bytes + 4 * at), in + at, 16);
    }
    commit_copies();
  }
  wait_copies<kFault == Fault::waits_for_too_few ? 1 : 0>();
  if (kFault != Fault::no_sync_after_copies) __syncthreads();
  out[t] = reinterpret_cast<const float*>(bytes)[t];
}

// Neighbours by way of shared memory, there and back.
template <Fault kFault>
__global__ void exchange(const float* in, float* out) {
  LINNET_SHARED(x, float[kN]);
  const int t = static_cast<int>(threadIdx.x), other = (t + 33) % kN;
  const auto sync = [&] {
    if (kFault == Fault::wrong_count) sync_threads(1, t < 64 ? kN - 32 : kN);
    else if (kFault == Fault::counts_differ) sync_threads(1, kN + 32);
    else if (kFault != Fault::no_sync) sync_threads(1, kN);
  };
  x[t] = in[t];
  sync();
  const float y = x[other];
  if (kFault != Fault::no_sync_before_reuse) sync_threads(2, kN);
  x[t] = y;
  sync();
  float z = x[(t + kN - 33) % kN];
  if (kFault == Fault::other_instruction && t % 32 < 16) __syncwarp();
  z = __shfl_xor_sync(~0u, __shfl_xor_sync(~0u, z, 5), 5);
  out[t] = z;
}

// Row 64 of a warpgroup's product of ones with a matrix [16, 64] whose (k, n) is n for k = 0, else 0: n.
template <Fault kFault>
__global__ void product(const float*, float* out) {
  LINNET_DYNAMIC_SHARED(bytes, 1024);
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = t % 32;
  for (int i = t; i < 64 * 64; i += kN) {
    const int column = i / 64, k = i % 64, piece = k / 8 ^ (kFault == Fault::wrong_swizzle ? 1 : column & 7);
    *reinterpret_cast<__half*>(bytes + column * 128 + piece * 16 + k % 8 * 2) =
        __float2half_rn(k ? 0.f : static_cast<float>(column));
  }
  __syncthreads();
  float d[32];
  const uint32_t one = pack_half(1, 1), a[4] = {one, one, one, one};
  if (kFault != Fault::no_product_fence) wgmma_fence();
  wgmma_n64<1>(d, a, operand(smem_address(bytes) + (kFault == Fault::operands_differ && warp == 3 ? 32 : 0), 16), 0);
  wgmma_commit();
  if (kFault == Fault::overwritten_operand) {
    __syncthreads();
    for (int i = t; i < 64 * 64 / 2; i += kN) reinterpret_cast<uint32_t*>(bytes)[i] = 0;
    __syncthreads();
  }
  wgmma_wait<kFault == Fault::no_product_wait ? 1 : 0>();
  touch(d);
  if (warp == 0 && lane < 4)
    for (int i = 0; i < 32; i++)
      if (i % 4 < 2) out[8 * (i / 4) + 2 * lane + i % 2] = d[i];
  if (kFault == Fault::no_product_wait) wgmma_wait<0>();
  if (t >= 64) out[t] = static_cast<float>(t);
}

// The second grid copies what the first has written.
template <Fault kFault>
__global__ void first(const float* in, float* between, const int32_t* flag) {
  launch_dependents();
  if constexpr (kFault == Fault::waits_for_the_next_grid) {
    while (!__any_sync(~0u, load_acquire(flag) == 1)) {}
  }
  for (int i = 0; i < 20; i++) __syncthreads();
  between[threadIdx.x] = in[threadIdx.x];
}
template <Fault kFault>
__global__ void second(const float* between, float* out, int32_t* flag) {
  if (threadIdx.x == 0) store_release(flag, 1);
  if (kFault != Fault::no_dependency_wait) wait_for_dependency();
  out[threadIdx.x] = between[threadIdx.x];
}

// The first CTA waits for the last.
template <Fault kFault>
__global__ void chain(const float* in, float* out, int32_t* flag) {
  const bool is_last = blockIdx.x + 1 == gridDim.x;
  const int t = static_cast<int>(threadIdx.x);
  if (is_last) {
    __syncthreads();
    if (t == 0) store_release(flag, 1);
  } else {
    while (load_acquire(flag) != 1) {}
  }
  if (blockIdx.x != 0) return;
  out[t] = in[kFault == Fault::beyond_memory ? t + 1024 : t];
  if (kFault == Fault::misaligned_load) out[t] = reinterpret_cast<const float4*>(in + 1)[0].x;
}

void must(cudaError_t e) {
  if (e != cudaSuccess) std::printf("%s\n", cudaGetErrorString(e)), std::_Exit(2);
}

template <class... Params, class... Args>
void launch_after(void (*kernel)(Params...), Args... args) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(1);
  config.blockDim = dim3(kN);
  config.attrs = &attribute;
  config.numAttrs = 1;
  must(cudaLaunchKernelEx(&config, kernel, args...));
}

template <Fault kFault>
void run_fault(const float* in, float* out, int32_t* flag, float* between) {
  constexpr unsigned kBulkBytes = kN * sizeof(float);
  if (kFault < Fault::waits_for_too_few) must(launch_grid(bulk<kFault>, 1, kN, kBulkBytes, nullptr, in, out));
  else if (kFault < Fault::no_sync) must(launch_grid(pieces<kFault>, 1, kN, kBulkBytes, nullptr, in, out));
  else if (kFault < Fault::no_product_wait) must(launch_grid(exchange<kFault>, 1, kN, 0, nullptr, in, out));
  else if (kFault < Fault::no_dependency_wait) must(launch_grid(product<kFault>, 1, kN, 64 * 128, nullptr, in, out));
  else if (kFault < Fault::waits_for_a_cta_without_place) {
    must(launch_grid(first<kFault>, 1, kN, 0, nullptr, in, between, flag));
    launch_after(second<kFault>, between, out, flag);
  } else {
    const unsigned n_ctas = kFault == Fault::waits_for_a_cta_without_place ? 1000 : 3;
    must(launch_grid(chain<kFault>, n_ctas, kN, 0, nullptr, in, out, flag));
  }
}

// All right kernels, one after the other, each from the answer of the one before.
void run_right(const float* in, float* out, int32_t* flag, float* between) {
  must(launch_grid(bulk<Fault::none>, 1, kN, kN * sizeof(float), nullptr, in, out));
  must(launch_grid(pieces<Fault::none>, 1, kN, kN * sizeof(float), nullptr, out, between));
  must(launch_grid(exchange<Fault::none>, 1, kN, 0, nullptr, between, out));
  must(launch_grid(first<Fault::none>, 1, kN, 0, nullptr, out, between, flag + 1));
  launch_after(second<Fault::none>, between, out, flag + 1);
  must(launch_grid(chain<Fault::none>, 3, kN, 0, nullptr, out, between, flag));
  must(launch_grid(bulk<Fault::none>, 1, kN, kN * sizeof(float), nullptr, between, out));
}

using Run = void (*)(const float*, float*, int32_t*, float*);

// Whether the answer is right; in a process of its own, which a report ends.
bool is_right(Run run) {
  float *in, *out, *between;
  int32_t* flag;
  must(cudaMalloc(reinterpret_cast<void**>(&in), kN * sizeof(float)));
  must(cudaMalloc(reinterpret_cast<void**>(&out), kN * sizeof(float)));
  must(cudaMalloc(reinterpret_cast<void**>(&between), kN * sizeof(float)));
  must(cudaMalloc(reinterpret_cast<void**>(&flag), 2 * sizeof(int32_t)));
  std::vector<float> x(kN), y(kN);
  for (int i = 0; i < kN; i++) x[i] = static_cast<float>(i);
  must(cudaMemcpy(in, x.data(), kN * sizeof(float), cudaMemcpyHostToDevice));
  run(in, out, flag, between);
  must(cudaMemcpy(y.data(), out, kN * sizeof(float), cudaMemcpyDeviceToHost));
  return x == y;
}

// The report, "wrong" for a wrong answer, or nothing.
std::string report_of(Run run, int seed) {
  int ends[2];
  if (pipe(ends) != 0) return "no pipe";
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 2);
    setenv("LINNET_EMULATED_SEED", std::to_string(seed).c_str(), 1);
    std::_Exit(is_right(run) ? 0 : 3);
  }
  close(ends[1]);
  std::string text;
  char part[512];
  for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) text.append(part, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 3) return "wrong";
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "" : text.empty() ? "ended without a report" : text;
}

constexpr int kSeeds = 8;
int failures = 0;

void expect_right(const char* what, Run run) {
  std::string report;
  for (int seed = 0; seed < kSeeds; seed++) report += report_of(run, seed);
  std::printf("%s %s: right in every order%s%s\n", report.empty() ? "ok  " : "FAIL", what,
              report.empty() ? "" : ", but: ", report.c_str());
  failures += !report.empty();
}

template <Fault kFault>
void expect(const char* what, const char* report) {
  int n_found = 0;
  std::string other;
  for (int seed = 0; seed < kSeeds; seed++) {
    const std::string text = report_of(run_fault<kFault>, seed);
    const bool found = !text.empty() && text.find(report) != std::string::npos;
    n_found += found;
    if (!found) other += "\n  " + text;
  }
  std::printf("%s %s: %s, in %d orders of %d %s\n", n_found ? "ok  " : "FAIL", what, report, n_found, kSeeds,
              n_found ? "" : other.c_str());
  failures += n_found == 0;
}

void check() {
  expect_right("bulk and 16-byte copies, exchange, dependent grids, flags", run_right);
  expect_right("products", [](const float* in, float* out, int32_t*, float*) {
    must(launch_grid(product<Fault::none>, 1, kN, 64 * 128, nullptr, in, out));
  });
  expect<Fault::no_wait>("no wait for a bulk copy", "");
  expect<Fault::wrong_phase>("a wait for the other phase", "");
  expect<Fault::too_few_bytes>("half the bytes expected", "dead-locked");
  expect<Fault::too_many_arrivals_expected>("a barrier of one arrival too many", "dead-locked");
  expect<Fault::one_arrival_more>("an arrival too many", "gets one more");
  expect<Fault::no_init>("no initialisation", "not initialised");
  expect<Fault::no_sync_after_init>("no barrier behind the initialisation", "not initialised");
  expect<Fault::misaligned_copy>("a misaligned bulk copy", "a bulk copy of");
  expect<Fault::beyond_shared>("a copy beyond shared memory", "not the CTA's shared memory");
  expect<Fault::ends_in_flight>("an end before a bulk copy's", "in flight");
  expect<Fault::waits_for_too_few>("a wait for all groups but one", "wrong");
  expect<Fault::no_sync_after_copies>("no barrier behind the wait for copies", "wrong");
  expect<Fault::no_sync>("no barrier before a read", "wrong");
  expect<Fault::no_sync_before_reuse>("no barrier before a write", "wrong");
  expect<Fault::wrong_count>("a barrier of two counts", "waited for by");
  expect<Fault::counts_differ>("a barrier of more threads than there are", "dead-locked");
  expect<Fault::other_instruction>("half a warp at another instruction", "the warp is at");
  expect<Fault::no_product_wait>("no wait for a product", "wrong");
  expect<Fault::no_product_fence>("no fence before a product", "wgmma_fence");
  expect<Fault::operands_differ>("warps with different operands", "different products");
  expect<Fault::wrong_swizzle>("an operand that is not swizzled", "wrong");
  expect<Fault::overwritten_operand>("an operand overwritten before the wait", "wrong");
  expect<Fault::no_dependency_wait>("no wait for the grid before", "wrong");
  expect<Fault::waits_for_the_next_grid>("a wait for the grid behind", "dead-locked");
  expect<Fault::waits_for_a_cta_without_place>("a wait for a CTA without a place", "dead-locked");
  expect<Fault::beyond_memory>("a read beyond memory", "not allocated");
  expect<Fault::misaligned_load>("a misaligned load", "misaligned");
  std::printf("%d failures\n", failures);
}

}  // namespace
}  // namespace linnet

int main() {
  linnet::check();
  return linnet::failures ? 1 : 0;
}
