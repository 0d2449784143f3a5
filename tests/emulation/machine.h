// The emulated GPU: grids of CTAs of threads, each thread a coroutine. What kernels see of it: emulation.cuh, instructions.cuh.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace linnet::emulation {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

constexpr int kLanes = 32, kNamedBarriers = 16;
// Shared addresses of a CTA: nothing below kDynamicAt, so that a null address is an error; static variables behind all dynamic memory.
constexpr uint32_t kDynamicAt = 1024, kMaxSharedBytes = 227 * 1024, kStaticAt = kDynamicAt + 256 * 1024,
                   kWindowBytes = kStaticAt + 256 * 1024;

struct Cta;
struct Warp;
struct Grid;

// What a thread waits for: that the masked word is no longer `value`. No word: it is ready.
struct Wait {
  const uint64_t* word = nullptr;
  uint64_t mask = ~0ull, value = 0;
  const char* where = "the start";
  uint32_t address = 0;  // shared, of an mbarrier
  bool ready() const { return !word || (*word & mask) != value; }
};

struct Copy {  // of 16 bytes
  uint32_t to;
  const void* from;
  int n_bytes;
};

struct Thread {
  void* stack = nullptr;  // where it goes on
  Index index;
  int number = 0, lane = 0;
  Warp* warp = nullptr;
  Cta* cta = nullptr;
  std::vector<Copy> copies;  // cp.async in flight
  size_t copies_done = 0;
  std::vector<size_t> copy_groups;  // ends of the committed groups, counted from the thread's first copy
};

// What a lane brings to an instruction of its whole warp.
struct Lane {
  uint32_t words[8];
  void* results[4];
};

// An asynchronous product of a warp's 16 rows with a matrix in shared memory: wgmma.
struct Product {
  void* accumulator;  // lane 0's, for which Accumulator it is
  float left[16][16];
  uint32_t right;
  int n_columns, sign;
  bool transposed, accumulate;
};
struct Accumulator {
  void* of[kLanes];
  int n_columns, n_products;
  std::vector<float> x;  // [16, n_columns]
};

struct Warp {
  Cta* cta = nullptr;
  int number = 0, n_live = 0;
  Thread* threads[kLanes] = {};
  Wait waits[kLanes];
  bool done[kLanes] = {};
  // Instructions of all lanes: the last to come does it for all.
  Lane lanes[kLanes];
  int n_arrived = 0;
  uint64_t generation = 0;
  void (*action)(Warp&) = nullptr;
  const char* what = nullptr;
  // wgmma
  std::vector<Product> products;
  std::vector<size_t> product_groups;
  std::vector<Accumulator> accumulators;
  std::vector<uint32_t>
      product_log;  // operands of all its products, to compare with those of the warpgroup's other warps
  bool fenced = false;
};

struct NamedBarrier {
  int n_arrived = 0, n_expected = 0;
  bool of_all = false;
  uint64_t generation = 0;
};

struct Cta {
  Grid* grid = nullptr;
  Index index;
  char* window = nullptr;  // shared memory
  uint32_t static_end = kStaticAt;
  std::vector<std::pair<const void*, uint32_t>> statics;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  NamedBarrier barriers[kNamedBarriers];
  int n_live = 0, sm = 0, place = 0;
  bool triggered = false;
  uint64_t resumed = 0;
};

struct Grid {
  const void* address = nullptr;  // of the kernel, for its name
  std::function<void()> kernel;
  Index n_ctas, n_threads;
  uint32_t smem_bytes = 0;
  bool programmatic = false, cooperative = false;
  // While it runs.
  Grid* previous = nullptr;  // that it may run beside
  bool late = false;         // it starts when that has ended
  int64_t n_started = 0, n_ended = 0, n_triggered = 0;
  uint64_t ended = 0;
  int64_t size() const { return static_cast<int64_t>(n_ctas.x) * n_ctas.y * n_ctas.z; }
};

// When asynchronous copies take effect: at their instruction; when nothing else can go on, their place being poison until then; each by chance.
enum class Copies { early, late, mixed };

struct Settings {
  unsigned seed;
  int n_sms;
};
const Settings& settings();

// Runs grids of which each but the first starts beside the one before it or behind it, by chance. Ends the program with a report when they cannot
// end.
void run(std::vector<Grid*> grids);
// CTAs of such a grid that fit the GPU at once.
int64_t max_resident(const Grid& grid);

// ---- for the instructions
extern Thread* me;
extern uint64_t progress;  // counts what others may wait for
extern uint64_t meetings;  // of it: warps' instructions, of which a loop that waits for a flag may have some
inline Wait& my_wait() { return me->warp->waits[me->lane]; }
void yield();
void wait_for(const uint64_t* word, uint64_t mask, uint64_t value, const char* where, uint32_t address = 0);
void poll(const char* where);  // lets others run; ready at once
// All live lanes of the warp: the last one does action for all.
void meet(const char* what, void (*action)(Warp&));
Lane& my_lane();
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
unsigned random_below(unsigned n);
void trigger(Cta& cta);  // the next grid may start when all have

// ---- shared memory
uint32_t shared_address(const void* p);
char* shared_at(uint32_t address, uint32_t n_bytes, uint32_t alignment, const char* what);
char* shared_at(Cta& cta, uint32_t address, uint32_t n_bytes, uint32_t alignment, const char* what);
void* static_shared(const void* key, size_t n_bytes, size_t alignment);
char* dynamic_shared(size_t alignment);

// ---- asynchronous copies
void begin_copies(Copies copies);
bool complete_one();  // false: none in flight
void end_copies(Cta& cta);

void end_products(Warp& warp);

}  // namespace linnet::emulation
