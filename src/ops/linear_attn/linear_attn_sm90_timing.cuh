// How the benchmarks of the Hopper KDA kernels measure and report: medians of event times, floors from the copy bandwidth of the same run.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_case.cuh"

namespace linnet::ops::sm90_check {

struct Times {
  double median, p10, p90;
};

template <class F>
Times time_us(int repeats, F run) {
  cudaEvent_t begin, end;
  LINNET_CUDA_OK(cudaEventCreate(&begin));
  LINNET_CUDA_OK(cudaEventCreate(&end));
  std::vector<double> t;
  for (int i = -5; i < repeats; i++) {
    LINNET_CUDA_OK(cudaEventRecord(begin, stream()));
    run();
    LINNET_CUDA_OK(cudaEventRecord(end, stream()));
    LINNET_CUDA_OK(cudaEventSynchronize(end));
    float ms;
    LINNET_CUDA_OK(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 0) t.push_back(ms * 1e3);
  }
  std::sort(t.begin(), t.end());
  return {t[t.size() / 2], t[t.size() / 10], t[t.size() * 9 / 10]};
}

// Replays `calls` calls, run(0), run(1), .., as one graph; times of one call.
template <class F>
Times time_in_graph_us(int calls, F run) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  LINNET_CUDA_OK(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeGlobal));
  for (int i = 0; i < calls; i++) run(i);
  LINNET_CUDA_OK(cudaStreamEndCapture(stream(), &graph));
  LINNET_CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  Times t = time_us(20, [&] { LINNET_CUDA_OK(cudaGraphLaunch(exec, stream())); });
  for (double* x : {&t.median, &t.p10, &t.p90}) *x /= calls;
  return t;
}

inline double copy_bytes_per_us() {
  const size_t n = 2ull << 30;
  DeviceArray<char> a(n), b(n);
  a.poison();
  return 2.0 * n / time_us(20, [&] {
                     LINNET_CUDA_OK(cudaMemcpyAsync(b.get(), a.get(), n, cudaMemcpyDeviceToDevice, stream()));
                   }).median;
}

inline std::string meta;  // appended to each JSON line: ,"gpu":"..","commit":".."

inline void report(const char* op, const std::string& shape, double floor_us, const Times& t, const std::string& more) {
  std::printf("%-12s %-7s %-26s %6.3f %9.1f %9.1f..%-9.1f %9.1f  mem  %s\n", op, "sm90", shape.c_str(),
              floor_us / t.median, t.median, t.p10, t.p90, floor_us, more.c_str());
  std::fprintf(stderr,
               "{\"op\":\"%s\",\"variant\":\"sm90\",\"shape\":\"%s\",\"ratio\":%.4f,\"time_us\":%.2f,\"p10_us\":%.2f,"
               "\"p90_us\":%.2f,\"floor_us\":%.2f,\"bound\":\"mem\"%s}\n",
               op, shape.c_str(), floor_us / t.median, t.median, t.p10, t.p90, floor_us, meta.c_str());
}

// Measures the copy bandwidth and prints the table's head. Records go to standard error as JSON lines.
inline double begin_bench(int argc, char** argv) {
  if (argc > 2) meta = argv[2];
  const double bandwidth = copy_bytes_per_us();
  std::printf("copy %.3f TB/s\n%-12s %-7s %-26s %6s %9s %20s %9s  bound\n", bandwidth * 1e-6, "op", "variant", "shape",
              "ratio", "time us", "p10..p90", "floor us");
  return bandwidth;
}

}  // namespace linnet::ops::sm90_check
