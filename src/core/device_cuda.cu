// The functions of device_abi.h on the CUDA runtime: one call each, statuses are cudaError_t.
#include "core/device_cuda.h"

#include <cuda_runtime.h>

#include <cstdio>

#define LINNET_STRING_OF(x) #x
#define LINNET_STRING(x) LINNET_STRING_OF(x)

namespace linnet {
namespace {

cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t event_of(void* event) { return static_cast<cudaEvent_t>(event); }

int32_t driver_version(int32_t* version) { return cudaDriverGetVersion(version); }

int32_t device_count(int32_t* count) {
  const cudaError_t status = cudaGetDeviceCount(count);
  if (status != cudaErrorNoDevice) return status;
  *count = 0;
  return cudaSuccess;
}

int32_t device_info(int32_t device, LinnetDeviceInfo* info) {
  cudaDeviceProp p;
  if (const cudaError_t status = cudaGetDeviceProperties(&p, device)) return status;
  *info = {};
  std::snprintf(info->name, sizeof info->name, "%s", p.name);
  if (const cudaError_t status = cudaDeviceGetPCIBusId(info->bus_id, sizeof info->bus_id, device)) return status;
  info->compute_major = p.major;
  info->compute_minor = p.minor;
  info->n_multiprocessors = p.multiProcessorCount;
  info->usable = p.major == 9 && p.minor == 0;  // sm_90a code runs there and nowhere else
  info->memory_bytes = p.totalGlobalMem;
  info->l2_bytes = static_cast<uint64_t>(p.l2CacheSize);
  info->shared_bytes = p.sharedMemPerBlockOptin;
  return cudaSuccess;
}

int32_t set_device(int32_t device) { return cudaSetDevice(device); }

int32_t memory_info(uint64_t* free_bytes, uint64_t* total_bytes) {
  size_t free = 0, total = 0;
  const cudaError_t status = cudaMemGetInfo(&free, &total);
  *free_bytes = free;
  *total_bytes = total;
  return status;
}

const char* error_text(int32_t status) {
  thread_local char text[256];
  const auto error = static_cast<cudaError_t>(status);
  std::snprintf(text, sizeof text, "%s: %s", cudaGetErrorName(error), cudaGetErrorString(error));
  return text;
}

int32_t is_out_of_memory(int32_t status) { return status == cudaErrorMemoryAllocation; }

// A failed allocation is not an error of later launches: the runtime's memory of it is cleared.
int32_t cleared(cudaError_t status) {
  if (status != cudaSuccess) (void)cudaGetLastError();
  return status;
}

int32_t allocate(void** memory, uint64_t bytes) { return cleared(cudaMalloc(memory, bytes)); }
int32_t release(void* memory) { return cudaFree(memory); }
int32_t allocate_host(void** memory, uint64_t bytes) { return cleared(cudaMallocHost(memory, bytes)); }
int32_t release_host(void* memory) { return cudaFreeHost(memory); }

int32_t copy(void* to, const void* from, uint64_t bytes, void* stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_of(stream));
}
int32_t fill(void* to, int32_t byte, uint64_t bytes, void* stream) {
  return cudaMemsetAsync(to, byte, bytes, stream_of(stream));
}

int32_t stream_create(void** stream) {
  cudaStream_t made = nullptr;
  const cudaError_t status = cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking);
  *stream = made;
  return status;
}
int32_t stream_destroy(void* stream) { return cudaStreamDestroy(stream_of(stream)); }
int32_t stream_synchronize(void* stream) { return cudaStreamSynchronize(stream_of(stream)); }
int32_t stream_wait(void* stream, void* event) { return cudaStreamWaitEvent(stream_of(stream), event_of(event), 0); }

int32_t event_create(void** event) {
  cudaEvent_t made = nullptr;
  const cudaError_t status = cudaEventCreate(&made);
  *event = made;
  return status;
}
int32_t event_destroy(void* event) { return cudaEventDestroy(event_of(event)); }
int32_t event_record(void* event, void* stream) { return cudaEventRecord(event_of(event), stream_of(stream)); }
int32_t event_synchronize(void* event) { return cudaEventSynchronize(event_of(event)); }
int32_t event_done(void* event, int32_t* done) {
  const cudaError_t status = cudaEventQuery(event_of(event));
  *done = status == cudaSuccess;
  return status == cudaErrorNotReady ? cudaSuccess : status;
}
int32_t event_elapsed(float* milliseconds, void* begin, void* end) {
  return cleared(cudaEventElapsedTime(milliseconds, event_of(begin), event_of(end)));
}

}  // namespace

LinnetDeviceModule cuda_device_module(std::span<const LinnetDeviceOperator> operators) noexcept {
  return {.abi_version = LINNET_DEVICE_ABI,
          .table_bytes = sizeof(LinnetDeviceModule),
          .kind = "cuda",
          .driver_wanted = "NVIDIA's driver (libcuda.so.1) for CUDA " LINNET_STRING(__CUDACC_VER_MAJOR__) " or newer",
          .devices_wanted = "9.0 (Hopper)",
          .runtime_version = CUDART_VERSION,
          .n_operators = static_cast<int32_t>(operators.size()),
          .operators = operators.data(),
          .driver_version = driver_version,
          .device_count = device_count,
          .device_info = device_info,
          .set_device = set_device,
          .memory_info = memory_info,
          .error_text = error_text,
          .is_out_of_memory = is_out_of_memory,
          .allocate = allocate,
          .release = release,
          .allocate_host = allocate_host,
          .release_host = release_host,
          .copy = copy,
          .fill = fill,
          .stream_create = stream_create,
          .stream_destroy = stream_destroy,
          .stream_synchronize = stream_synchronize,
          .stream_wait = stream_wait,
          .event_create = event_create,
          .event_destroy = event_destroy,
          .event_record = event_record,
          .event_synchronize = event_synchronize,
          .event_done = event_done,
          .event_elapsed = event_elapsed};
}

}  // namespace linnet
