// Coroutines, and the order in which they run.
#include "emulation/machine.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>

// Saves the registers that calls keep and the stack to *save, and goes on where `to` was saved.
extern "C" void linnet_emulation_switch(void** save, void* to);
asm(R"(
.text
.globl linnet_emulation_switch
.type linnet_emulation_switch, @function
linnet_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace linnet::emulation {

Thread* me = nullptr;
uint64_t progress = 0, meetings = 0;

namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr int kSmThreads = 2048, kSmCtas = 32, kSmSharedBytes = 228 * 1024, kReservedBytes = 1024;
constexpr int kIdleRounds = 200;    // without anything that could go on: dead-locked
constexpr int kLoopRounds = 20000;  // in which warps have only gone round their own loops: likewise
constexpr int kTurns = 16;          // of a warp in a round

void* scheduler_stack;
uint64_t random_state = 1;

// Stacks and shared memory, kept from one run to the next.
struct Places {
  std::vector<char*> stacks, windows;
  std::vector<int> free_windows;
  std::vector<size_t> free_stacks;
} places;

char* map_pages(size_t n_bytes) {
  void* p = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) fail("no memory for an emulated CTA");
  return static_cast<char*>(p);
}

struct Sm {
  int n_threads = 0, n_ctas = 0;
  uint32_t shared_bytes = 0;
};

struct Run {
  std::vector<Grid*> grids;
  std::vector<Sm> sms;
  std::deque<std::unique_ptr<Cta>> ctas;
  std::vector<Warp*> order;
  bool shuffled = false;
};
Run* now = nullptr;

// The kernel's name, where binutils are.
std::string name_of(const Grid& g) {
  static std::map<const void*, std::string> names;
  std::string& name = names[g.address];
  if (!name.empty()) return name;
  name = "kernel";
  Dl_info info;
  if (!dladdr(g.address, &info)) return name;
  char command[128], line[4096];
  const auto offset = static_cast<const char*>(g.address) - static_cast<const char*>(info.dli_fbase);
  std::snprintf(command, sizeof command, "addr2line -Cfe /proc/%d/exe 0x%tx 2>/dev/null", getpid(), offset);
  FILE* const pipe = popen(command, "r");
  if (pipe && std::fgets(line, sizeof line, pipe) && line[0] != '?') name = line;
  if (pipe) pclose(pipe);
  for (const char* const cut : {"linnet::ops::sm90::", "(anonymous namespace)::", "linnet::ops::", "linnet::", "void "})
    for (size_t at; (at = name.find(cut)) != std::string::npos;) name.erase(at, std::strlen(cut));
  size_t end = 0;  // of the name with its template's arguments
  for (int depth = 0; end < name.size() && name[end] != '\n' && (depth || name[end] != '('); end++)
    depth += (name[end] == '<') - (name[end] == '>');
  return name = name.substr(0, end);
}

std::string place_of(const Cta& cta) {
  char text[96];
  std::snprintf(text, sizeof text, " CTA (%u, %u, %u)", cta.index.x, cta.index.y, cta.index.z);
  return name_of(*cta.grid) + text;
}

bool has_room(const Sm& sm, const Grid& g, int n_threads) {
  return sm.n_threads + n_threads <= kSmThreads && sm.n_ctas < kSmCtas &&
         sm.shared_bytes + g.smem_bytes + kReservedBytes <= kSmSharedBytes;
}

int threads_of(const Grid& g) { return static_cast<int>(g.n_threads.x * g.n_threads.y * g.n_threads.z); }

void end_thread(Thread& t) {
  Warp& w = *t.warp;
  Cta& c = *t.cta;
  w.done[t.lane] = true;
  w.n_live--;
  c.n_live--;
  progress++;
  if (w.n_arrived && w.n_arrived == w.n_live) {  // the others waited for this one
    w.n_arrived = 0;
    w.action(w);
    w.generation++;
  }
  NamedBarrier& b = c.barriers[0];
  if (b.of_all && b.n_arrived && b.n_arrived == c.n_live) {
    b.n_arrived = 0;
    b.generation++;
  }
}

void entry() {
  me->cta->grid->kernel();
  end_thread(*me);
  while (true) yield();
}

Index index_of(int64_t i, const Index& n) {
  return {static_cast<unsigned>(i % n.x), static_cast<unsigned>(i / n.x % n.y), static_cast<unsigned>(i / n.x / n.y)};
}

// A CTA's stacks lie together in one mapping, sized for the largest CTA.
void begin_cta(Grid& g, int sm) {
  auto owner = std::make_unique<Cta>();
  Cta& c = *owner;
  c.grid = &g;
  c.index = index_of(g.n_started++, g.n_ctas);
  c.sm = sm;
  if (places.free_windows.empty()) {
    places.free_windows.push_back(static_cast<int>(places.windows.size()));
    places.windows.push_back(map_pages(kWindowBytes));
    places.stacks.push_back(map_pages(1024 * kStackBytes));
  }
  c.place = places.free_windows.back();
  places.free_windows.pop_back();
  c.window = places.windows[c.place];
  std::memset(c.window + kDynamicAt, 0xff, g.smem_bytes + 256);
  const int n = threads_of(g);
  c.n_live = n;
  c.threads.resize(n);
  c.warps.resize((n + kLanes - 1) / kLanes);
  for (int i = 0; i < n; i++) {
    Thread& t = c.threads[i];
    Warp& w = c.warps[i / kLanes];
    t.number = i;
    t.index = index_of(i, g.n_threads);
    t.lane = i % kLanes;
    t.cta = w.cta = &c;
    t.warp = &w;
    w.number = i / kLanes;
    w.threads[t.lane] = &t;
    w.n_live++;
    // Stacks begin at different lines of the cache.
    char* const top = places.stacks[c.place] + (i + 1) * kStackBytes - 64 - (i % 61) * 192;
    void** sp = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t{15});
    *--sp = nullptr;
    *--sp = reinterpret_cast<void*>(&entry);
    for (int r = 0; r < 6; r++) *--sp = nullptr;
    t.stack = sp;
  }
  for (Warp& w : c.warps) {
    for (int i = 0; i < kLanes; i++) w.done[i] = !w.threads[i];
    now->order.push_back(&w);
    if (now->shuffled) std::swap(now->order.back(), now->order[random_below(static_cast<unsigned>(now->order.size()))]);
  }
  Sm& s = now->sms[sm];
  s.n_threads += n;
  s.n_ctas++;
  s.shared_bytes += g.smem_bytes + kReservedBytes;
  now->ctas.push_back(std::move(owner));
  progress++;
}

void end_cta(Cta& c) {
  trigger(c);
  end_copies(c);
  for (Warp& w : c.warps) end_products(w);
  for (size_t i = 0; i < c.warps.size(); i++)
    if (c.warps[i].product_log != c.warps[i / 4 * 4].product_log)
      fail("%s: the warps of warpgroup %zu have issued different products", place_of(c).c_str(), i / 4);
  for (uint32_t i = 0; i < 256; i++)
    if (c.window[kDynamicAt + c.grid->smem_bytes + i] != static_cast<char>(0xff))
      fail("%s has written %u bytes beyond its %u bytes of dynamic shared memory", place_of(c).c_str(), i,
           c.grid->smem_bytes);
  if (c.grid->smem_bytes + c.static_end - kStaticAt > kMaxSharedBytes)
    fail("%s: %u bytes of dynamic and %u of static shared memory", place_of(c).c_str(), c.grid->smem_bytes,
         c.static_end - kStaticAt);
  Sm& s = now->sms[c.sm];
  s.n_threads -= static_cast<int>(c.threads.size());
  s.n_ctas--;
  s.shared_bytes -= c.grid->smem_bytes + kReservedBytes;
  places.free_windows.push_back(c.place);
  Grid& g = *c.grid;
  if (++g.n_ended == g.size()) g.ended = 1;
  progress++;
}

// Starts what has room, grid after grid.
void begin_ctas() {
  for (Grid* g : now->grids) {
    if (g->previous && (g->late ? g->previous->n_ended : g->previous->n_triggered) < g->previous->size()) return;
    while (g->n_started < g->size()) {
      const int n = settings().n_sms, first = now->shuffled ? static_cast<int>(random_below(n)) : 0;
      int sm = 0;
      while (sm < n && !has_room(now->sms[(first + sm) % n], *g, threads_of(*g))) sm++;
      if (sm == n) return;  // CTAs of later grids come behind these
      begin_cta(*g, (first + sm) % n);
    }
  }
}

void end_ctas() {
  bool any = false;
  for (auto& c : now->ctas) any = any || c->n_live == 0;
  if (!any) return;
  std::erase_if(now->order, [](const Warp* w) { return w->cta->n_live == 0; });
  for (auto& c : now->ctas)
    if (c->n_live == 0) end_cta(*c);
  std::erase_if(now->ctas, [](const auto& c) { return c->n_live == 0; });
}

// Lets ready lanes of a warp run, mostly all of them; whether there was one.
bool turn(Warp& w) {
  bool any = false;
  const unsigned first = now->shuffled ? random_below(kLanes) : 0;
  const unsigned skipped = now->shuffled && random_below(4) == 0 ? random_below(~0u) : 0;
  for (unsigned n = 0; n < kLanes; n++) {
    const unsigned i = (first + n) % kLanes;
    if (w.done[i] || !w.waits[i].ready() || (skipped >> i & 1)) continue;
    any = true;
    w.waits[i].word = nullptr;
    me = w.threads[i];
    linnet_emulation_switch(&scheduler_stack, me->stack);
    me = nullptr;
  }
  return any;
}

[[noreturn]] void report_deadlock(const char* how) {
  std::map<std::string, int> at;
  for (const auto& c : now->ctas)
    for (const Warp& w : c->warps)
      for (int i = 0; i < kLanes; i++)
        if (!w.done[i]) {
          char text[96];
          std::snprintf(text, sizeof text, " warp %d: %s %u", w.number, w.waits[i].where, w.waits[i].address);
          at[place_of(*c) + text]++;
        }
  int n = 0;
  for (const auto& [where, count] : at)
    if (n++ < 80) std::fprintf(stderr, "  %s (%d lanes)\n", where.c_str(), count);
  for (const Grid* g : now->grids)
    std::fprintf(stderr, "  %s: %lld CTAs, %lld started, %lld ended\n", name_of(*g).c_str(),
                 static_cast<long long>(g->size()), static_cast<long long>(g->n_started),
                 static_cast<long long>(g->n_ended));
  fail("dead-locked, %s", how);
}

void on_signal(int signal) {
  fail(signal == SIGILL ? "a misaligned access" : "an access to memory that is not allocated (signal %d)", signal);
}

void catch_signals() {
  static char stack[64 * 1024];
  stack_t alternative = {};
  alternative.ss_sp = stack;
  alternative.ss_size = sizeof stack;
  sigaltstack(&alternative, nullptr);
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_ONSTACK;
  for (const int s : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) sigaction(s, &action, nullptr);
}

}  // namespace

const Settings& settings() {
  static const Settings s = [] {
    const auto number = [](const char* name, int otherwise) {
      const char* const text = std::getenv(name);
      return text ? std::atoi(text) : otherwise;
    };
    return Settings{static_cast<unsigned>(number("LINNET_EMULATED_SEED", 1)), number("LINNET_EMULATED_SMS", 6)};
  }();
  return s;
}

unsigned random_below(unsigned n) {
  uint64_t x = random_state += 0x9e3779b97f4a7c15u;  // splitmix64
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return static_cast<unsigned>((x ^ x >> 31) % n);
}

void fail(const char* format, ...) {
  std::fflush(stdout);
  std::fprintf(stderr, "emulation: ");
  if (me) std::fprintf(stderr, "%s thread %d: ", place_of(*me->cta).c_str(), me->number);
  va_list args;
  va_start(args, format);
  std::vfprintf(stderr, format, args);
  va_end(args);
  std::fprintf(stderr, " (seed %u)\n", settings().seed);
  std::fflush(stderr);
  std::_Exit(1);
}

void yield() { linnet_emulation_switch(&me->stack, scheduler_stack); }

void wait_for(const uint64_t* word, uint64_t mask, uint64_t value, const char* where, uint32_t address) {
  Wait& w = my_wait();
  w = {word, mask, value, where, address};
  while (!w.ready()) {
    yield();
    w.word = word;
  }
  w.word = nullptr;
  progress++;
}

void poll(const char* where) {
  Wait& w = my_wait();
  w = {};
  w.where = where;
  yield();
}

Lane& my_lane() { return me->warp->lanes[me->lane]; }

void meet(const char* what, void (*action)(Warp&)) {
  Warp& w = *me->warp;
  if (w.n_arrived && w.action != action) fail("the warp is at %s and at %s", w.what, what);
  w.action = action;
  w.what = what;
  if (++w.n_arrived < w.n_live) {
    wait_for(&w.generation, ~0ull, w.generation, what);
    meetings++;
    return;
  }
  w.n_arrived = 0;
  action(w);
  w.generation++;
  progress++, meetings++;
}

int64_t max_resident(const Grid& g) {
  Sm sm;
  int64_t n = 0;
  for (; has_room(sm, g, threads_of(g)); n++) {
    sm.n_threads += threads_of(g);
    sm.n_ctas++;
    sm.shared_bytes += g.smem_bytes + kReservedBytes;
  }
  return n * settings().n_sms;
}

void run(std::vector<Grid*> grids) {
  static bool once = false;
  if (!once) catch_signals();
  if (!once) random_state = settings().seed;
  once = true;
  Run r;
  r.grids = std::move(grids);
  r.sms.resize(settings().n_sms);
  r.shuffled = settings().seed != 0;
  for (Grid* g : r.grids) g->late = r.shuffled && g->previous && random_below(2) == 0;
  now = &r;
  begin_copies(r.shuffled ? static_cast<Copies>(random_below(3)) : Copies::late);
  uint64_t last = progress, last_other = progress - meetings;
  int n_idle = 0, n_loops = 0;
  while (true) {
    begin_ctas();
    if (r.ctas.empty()) break;
    for (size_t i = 0; i < r.order.size(); i++) {
      if (r.shuffled && random_below(4) == 0) continue;
      const int n = r.shuffled ? 1 + static_cast<int>(random_below(kTurns)) : kTurns;
      for (int k = 0; k < n && turn(*r.order[i]); k++) {}
    }
    end_ctas();
    if (progress != last) n_idle = 0;
    else if (complete_one()) n_idle = 0;
    else if (++n_idle > kIdleRounds) report_deadlock("all waiting");
    n_loops = progress - meetings == last_other ? n_loops + 1 : 0;
    if (n_loops > kIdleRounds && complete_one()) n_loops = 0;
    if (n_loops > kLoopRounds) report_deadlock("some warps in loops");
    last = progress;
    last_other = progress - meetings;
  }
  now = nullptr;
}

void trigger(Cta& c) {
  if (c.triggered) return;
  c.triggered = true;
  c.grid->n_triggered++;
  progress++;
}

}  // namespace linnet::emulation
