// Shared memory of the emulated GPU: its addresses, barriers in it (mbarrier), and copies into it that take effect later.
#include <cstring>

#include "emulation/instructions.h"

namespace linnet::emulation {
namespace {

// An mbarrier is where its kernel put it, so that what overwrites it is seen.
struct Bits {
  uint16_t pending, expected;
  uint32_t phase : 1;
  int32_t bytes : 31;
};
static_assert(sizeof(Bits) == 8);
constexpr uint64_t kPhase = 1ull << 32;
constexpr int kMostArrivals = 0x7fff;

Bits& bits_at(Cta& c, uint32_t address) {
  Bits& b = *reinterpret_cast<Bits*>(shared_at(c, address, 8, 8, "mbarrier"));
  if (b.expected == 0 || b.expected > kMostArrivals) fail("the mbarrier at %u is not initialised", address);
  return b;
}

void end_phase_if_complete(Bits& b) {
  progress++;
  if (b.pending || b.bytes) return;
  b.phase ^= 1;
  b.pending = b.expected;
}

void arrive(Cta& c, uint32_t address) {
  Bits& b = bits_at(c, address);
  if (b.pending == 0) fail("the mbarrier at %u has all arrivals of its phase and gets one more", address);
  b.pending--;
  end_phase_if_complete(b);
}

// What is in flight beside the threads' own groups of copies.
struct Flight {
  Cta* cta;
  Thread* thread;  // whose copies up to n an arrival waits for; null: a bulk copy
  size_t n;
  uint32_t to, bar;
  const void* from;
};
std::vector<Flight> flights;
Copies mode = Copies::late;

bool at_once() { return mode == Copies::early || (mode == Copies::mixed && random_below(2)); }

// Copies are counted from the thread's first.
size_t issued(const Thread& t) { return t.copies_done + t.copies.size(); }

void complete(Thread& t, size_t end) {
  size_t n = 0;
  for (; t.copies_done + n < end; n++) {
    char* const to = shared_at(*t.cta, t.copies[n].to, 16, 16, "cp.async");
    std::memset(to, 0, 16);
    std::memcpy(to, t.copies[n].from, t.copies[n].n_bytes);
  }
  t.copies.erase(t.copies.begin(), t.copies.begin() + static_cast<ptrdiff_t>(n));
  t.copies_done += n;
}

void complete(const Flight& f) {
  if (f.thread) {
    complete(*f.thread, f.n);
    arrive(*f.cta, f.bar);
    return;
  }
  std::memcpy(shared_at(*f.cta, f.to, static_cast<uint32_t>(f.n), 16, "bulk copy"), f.from, f.n);
  Bits& b = bits_at(*f.cta, f.bar);
  b.bytes -= static_cast<int>(f.n);
  end_phase_if_complete(b);
}

// Its error is the thread's that asks for the copy.
void look_at(const void* from, size_t n_bytes) {
  const volatile char* const p = static_cast<const char*>(from);
  if (n_bytes) static_cast<void>(p[0]), static_cast<void>(p[n_bytes - 1]);
}

}  // namespace

char* shared_at(Cta& c, uint32_t address, uint32_t n_bytes, uint32_t alignment, const char* what) {
  const bool dynamic = address >= kDynamicAt && address + n_bytes <= kDynamicAt + c.grid->smem_bytes;
  const bool fixed = address >= kStaticAt && address + n_bytes <= c.static_end;
  if (!dynamic && !fixed) fail("%s: %u bytes at %u are not the CTA's shared memory", what, n_bytes, address);
  if (address % alignment) fail("%s: shared address %u is not a multiple of %u", what, address, alignment);
  return c.window + address;
}

char* shared_at(uint32_t address, uint32_t n_bytes, uint32_t alignment, const char* what) {
  return shared_at(*me->cta, address, n_bytes, alignment, what);
}

uint32_t shared_address(const void* p) {
  const ptrdiff_t at = static_cast<const char*>(p) - me->cta->window;
  if (at < 0 || at >= static_cast<ptrdiff_t>(kWindowBytes)) fail("the shared address of what is not shared");
  return static_cast<uint32_t>(at);
}

void* static_shared(const void* key, size_t n_bytes, size_t alignment) {
  Cta& c = *me->cta;
  for (const auto& [k, at] : c.statics)
    if (k == key) return c.window + at;
  const auto at = static_cast<uint32_t>((c.static_end + alignment - 1) / alignment * alignment);
  c.static_end = at + static_cast<uint32_t>(n_bytes);
  if (c.static_end > kWindowBytes) fail("too much static shared memory");
  std::memset(c.window + at, 0xff, n_bytes);
  c.statics.emplace_back(key, at);
  return c.window + at;
}

char* dynamic_shared(size_t alignment) {
  if (kDynamicAt % alignment) fail("dynamic shared memory aligned to more than %u", kDynamicAt);
  return me->cta->window + kDynamicAt;
}

void begin_copies(Copies copies) { mode = copies; }

bool complete_one() {
  if (flights.empty()) return false;
  const size_t i = random_below(static_cast<unsigned>(flights.size()));
  const Flight f = flights[i];
  flights.erase(flights.begin() + static_cast<ptrdiff_t>(i));
  complete(f);
  return true;
}

void end_copies(Cta& c) {
  std::erase_if(flights, [&](const Flight& f) {
    if (f.cta != &c) return false;
    if (!f.thread) fail("CTA %u has ended with a bulk copy to %u in flight", c.index.x, f.to);
    return true;
  });
}

void barrier_init(uint32_t address, int arrivals) {
  if (arrivals < 1 || arrivals > kMostArrivals) fail("an mbarrier of %d arrivals", arrivals);
  const auto n = static_cast<uint16_t>(arrivals);
  *reinterpret_cast<Bits*>(shared_at(address, 8, 8, "mbarrier")) = {n, n, 0, 0};
  progress++;
}

void barrier_expect(uint32_t address, uint32_t bytes) {
  if (bytes >= 1u << 20) fail("an mbarrier that expects %u bytes", bytes);
  bits_at(*me->cta, address).bytes += static_cast<int>(bytes);
  arrive(*me->cta, address);
}

void barrier_arrive(uint32_t address) { arrive(*me->cta, address); }

void barrier_wait(uint32_t address, int phase) {
  Bits& b = bits_at(*me->cta, address);
  wait_for(reinterpret_cast<const uint64_t*>(&b), kPhase, phase & 1 ? kPhase : 0, "mbarrier", address);
}

void barrier_arrive_after_copies(uint32_t address) {
  bits_at(*me->cta, address);
  const Flight f{me->cta, me, issued(*me), 0, address, nullptr};
  if (me->copies.empty() || at_once()) complete(f);
  else flights.push_back(f);
}

void bulk_load(uint32_t to, const void* from, uint32_t bytes, uint32_t bar) {
  if (reinterpret_cast<uintptr_t>(from) % 16 || bytes % 16) fail("a bulk copy of %u bytes from %p", bytes, from);
  char* const at = shared_at(to, bytes, 16, "bulk copy");
  bits_at(*me->cta, bar);
  look_at(from, bytes);
  const Flight f{me->cta, nullptr, bytes, to, bar, from};
  if (at_once()) return complete(f);
  std::memset(at, 0xff, bytes);
  flights.push_back(f);
  progress++;
}

void copy16(uint32_t to, const void* from, int n_bytes) {
  if (reinterpret_cast<uintptr_t>(from) % 16 || n_bytes < 0 || n_bytes > 16)
    fail("cp.async of %d from %p", n_bytes, from);
  look_at(from, n_bytes);
  std::memset(shared_at(to, 16, 16, "cp.async"), 0xff, 16);
  me->copies.push_back({to, from, n_bytes});
  if (mode == Copies::early) complete(*me, issued(*me));
}

void commit_copies() { me->copy_groups.push_back(issued(*me)); }

void wait_copies(int n_pending) {
  auto& groups = me->copy_groups;
  if (static_cast<int>(groups.size()) <= n_pending) return;
  const auto last = groups.end() - n_pending - 1;
  complete(*me, *last);
  groups.erase(groups.begin(), last + 1);
}

}  // namespace linnet::emulation
