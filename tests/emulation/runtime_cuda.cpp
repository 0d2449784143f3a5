// The part of CUDA's runtime that launches and checks use. Work waits in one queue, in the order in which it was asked for, until somebody
// waits for it; only grids launched for it run beside the one before them. Memory ends at a page that cannot be accessed.
#include <sys/mman.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>

#include "emulation/emulation.cuh"

using namespace linnet::emulation;

struct CUevent_st {
  std::chrono::steady_clock::time_point time;
};
struct CUstream_st {
  bool capturing = false;
  std::vector<struct Work> captured;
};

struct Work {
  CUstream_st* stream = nullptr;
  std::function<void()> call;  // a grid where empty
  Grid grid;
};
struct CUgraph_st {
  std::vector<Work> work;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};

namespace {

std::deque<Work> queue;
cudaError_t last_error = cudaSuccess;

cudaError_t error(cudaError_t e) { return e ? last_error = e : e; }

void flush() {
  while (!queue.empty()) {
    std::vector<Work> now;
    now.push_back(std::move(queue.front()));
    queue.pop_front();
    if (now[0].call) {
      now[0].call();
      continue;
    }
    while (!queue.empty() && !queue.front().call && queue.front().grid.programmatic &&
           queue.front().stream == now[0].stream) {
      now.push_back(std::move(queue.front()));
      queue.pop_front();
    }
    std::vector<Grid*> grids;
    for (Work& w : now) {
      w.grid.previous = grids.empty() ? nullptr : grids.back();
      grids.push_back(&w.grid);
    }
    run(grids);
  }
}

void enqueue(CUstream_st* stream, Work work) {
  work.stream = stream;
  if (stream && stream->capturing) stream->captured.push_back(std::move(work));
  else queue.push_back(std::move(work));
}

// ---- memory
constexpr size_t kPage = 4096, kAlignment = 256;
struct Block {
  char* pages;
  size_t n_pages_bytes, n_bytes;
};
std::map<char*, Block> blocks;

size_t rounded(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

void check_end(char* p, const Block& b) {
  for (size_t i = b.n_bytes; i < rounded(b.n_bytes, kAlignment); i++)
    if (p[i] != static_cast<char>(0xff))
      fail("something was written %zu bytes behind memory of %zu bytes", i - b.n_bytes, b.n_bytes);
}

}  // namespace

namespace linnet::emulation {

cudaError_t enqueue(const cudaLaunchConfig_t& c, const void* kernel, std::function<void()> call) {
  Work w;
  w.grid.address = kernel;
  w.grid.kernel = std::move(call);
  w.grid.n_ctas = {c.gridDim.x, c.gridDim.y, c.gridDim.z};
  w.grid.n_threads = {c.blockDim.x, c.blockDim.y, c.blockDim.z};
  w.grid.smem_bytes = static_cast<uint32_t>(c.dynamicSmemBytes);
  for (unsigned i = 0; i < c.numAttrs; i++) {
    const cudaLaunchAttribute& a = c.attrs[i];
    if (a.id == cudaLaunchAttributeProgrammaticStreamSerialization)
      w.grid.programmatic = a.val.programmaticStreamSerializationAllowed;
    else if (a.id == cudaLaunchAttributeCooperative) w.grid.cooperative = a.val.cooperative;
    else if (a.id != cudaLaunchAttributeIgnore)
      fail("a launch attribute that is not emulated: %d", static_cast<int>(a.id));
  }
  const uint64_t n_threads = static_cast<uint64_t>(c.blockDim.x) * c.blockDim.y * c.blockDim.z;
  if (w.grid.size() == 0 || n_threads == 0 || n_threads > 1024 || c.gridDim.y > 65535 || c.gridDim.z > 65535)
    return error(cudaErrorInvalidConfiguration);
  if (c.dynamicSmemBytes > kMaxSharedBytes) return error(cudaErrorInvalidValue);
  if (w.grid.cooperative && w.grid.size() > max_resident(w.grid)) return error(cudaErrorCooperativeLaunchTooLarge);
  ::enqueue(c.stream, std::move(w));
  return cudaSuccess;
}

}  // namespace linnet::emulation

extern "C" {

cudaError_t cudaMalloc(void** p, size_t n_bytes) {
  flush();
  const size_t n = rounded(rounded(n_bytes, kAlignment), kPage);
  void* const pages =
      mmap(nullptr, n + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) return error(cudaErrorMemoryAllocation);
  mprotect(static_cast<char*>(pages) + n, kPage, PROT_NONE);
  char* const at = static_cast<char*>(pages) + n - rounded(n_bytes, kAlignment);
  std::memset(at, 0xff, rounded(n_bytes, kAlignment));
  blocks[at] = {static_cast<char*>(pages), n + kPage, n_bytes};
  *p = at;
  return cudaSuccess;
}

cudaError_t cudaFree(void* p) {
  if (!p) return cudaSuccess;
  flush();
  const auto found = blocks.find(static_cast<char*>(p));
  if (found == blocks.end()) fail("cudaFree of what cudaMalloc did not give");
  check_end(found->first, found->second);
  munmap(found->second.pages, found->second.n_pages_bytes);
  blocks.erase(found);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind) {
  flush();
  if (n) std::memcpy(to, from, n);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind, cudaStream_t stream) {
  Work w;
  w.call = [=] { std::memcpy(to, from, n); };
  enqueue(stream, std::move(w));
  return cudaSuccess;
}

cudaError_t cudaMemset(void* p, int value, size_t n) {
  flush();
  if (n) std::memset(p, value, n);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* p, int value, size_t n, cudaStream_t stream) {
  Work w;
  w.call = [=] { std::memset(p, value, n); };
  enqueue(stream, std::move(w));
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* s) {
  *s = new CUstream_st;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) { return cudaStreamCreate(s); }
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  flush();
  delete s;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  flush();
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  flush();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }

cudaError_t cudaEventCreate(cudaEvent_t* e) {
  *e = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  flush();
  delete e;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t stream) {
  Work w;
  w.call = [e] { e->time = std::chrono::steady_clock::now(); };
  enqueue(stream, std::move(w));
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  flush();
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  *ms = std::chrono::duration<float, std::milli>(to->time - from->time).count();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  s->capturing = true;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* g) {
  s->capturing = false;
  *g = new CUgraph_st{std::move(s->captured)};
  s->captured.clear();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t g, unsigned long long) {
  *exec = new CUgraphExec_st{g->work};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const Work& w : exec->work) enqueue(stream, w);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) {
  delete g;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int value) {
  return value > static_cast<int>(kMaxSharedBytes) ? error(cudaErrorInvalidValue) : cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  if (attribute != cudaDevAttrMultiProcessorCount)
    fail("a device attribute that is not emulated: %d", static_cast<int>(attribute));
  *value = settings().n_sms;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  std::memset(p, 0, sizeof *p);
  std::snprintf(p->name, sizeof p->name, "emulated Hopper GPU, seed %u", settings().seed);
  p->multiProcessorCount = settings().n_sms;
  p->major = 9;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
const char* cudaGetErrorName(cudaError_t) { return "error of the emulated runtime"; }
const char* cudaGetErrorString(cudaError_t e) {
  static char text[48];
  std::snprintf(text, sizeof text, "error %d of the emulated runtime", static_cast<int>(e));
  return text;
}
}
