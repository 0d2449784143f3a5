// A batch of products as one list of tasks: which kernel each problem takes, packing of x, tiles, and the scratch they
// need.
#include <algorithm>
#include <cstddef>
#include <limits>
#include <new>

#include "ops/gemm/gemm_kernels.h"

namespace linnet::ops::gemm {
namespace {

enum class Path : uint8_t { none, dots, in_out, f32, bf16 };

Path path_of(const GemmProblem& p, GemmForm form, const Kernels& kernels) {
  if (p.y[0] == 0 || p.y[1] == 0) return Path::none;
  if (p.w_is_in_out) return Path::in_out;
  const bool few = form == GemmForm::by_count ? p.y[0] <= kGemvRows : form == GemmForm::dots;
  if (few && !p.x_is_in_out) return Path::dots;
  return kernels.bf16 && p.w.dtype == DType::bf16 && !p.exact ? Path::bf16 : Path::f32;
}

int64_t depth_of(const GemmProblem& p) { return p.x[p.x_is_in_out ? 0 : 1]; }

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How finely a batch is cut. The largest tasks run fastest: long streams of weights, much reuse of a tile's rows. But every thread
// should get several of them, and none be so long that the others wait for it.
struct Grain {
  int64_t strip_bytes = 1 << 20;                                // of weights
  int64_t tile_products = std::numeric_limits<int64_t>::max();  // multiply-adds of a tile's task
};
constexpr int64_t kTasksPerThread = 4;
constexpr int64_t kLeastStripBytes = 32 << 10;
constexpr int64_t kStripColumns = 128;  // in_out strips are multiples of this

// One problem's tasks: `across` blocks of m_step x rows by `along` blocks of n_step w rows (columns when in_out).
struct Cut {
  int64_t m_step = 1, n_step = 1;
  int64_t across = 0, along = 0;
  int64_t tasks() const { return across * along; }
};

// depth: of all products that a tile's task makes one after the other.
Cut cut_of(const GemmProblem& p, Path path, int64_t depth, const Kernels& kernels, const Grain& grain) {
  const int64_t M = p.y[0], N = p.y[1], row_bytes = std::max<int64_t>(depth_of(p) * size_of(p.w.dtype), 1);
  Cut cut;
  if (path == Path::none) return cut;
  if (path == Path::dots || path == Path::in_out) {
    const int64_t unit = path == Path::dots ? 4 : kStripColumns;
    cut.m_step = path == Path::dots ? kStripRows : kGemvRows;
    cut.n_step = std::max(grain.strip_bytes / row_bytes / unit * unit, unit);
  } else {
    const int64_t panels = ceil_div(M, kPanelRows),
                  block = (path == Path::bf16 ? kernels.bf16 : kernels.f32)->row_block;
    int64_t rows = std::min(kTileRows, N), some_panels = std::min(kTilePanels, panels);
    const auto too_long = [&] { return rows * some_panels * kPanelRows * depth > grain.tile_products; };
    while (rows > kTileRows / 4 && too_long()) rows = ceil_div(rows, 2);
    while (some_panels > 2 && too_long()) some_panels = ceil_div(some_panels, 2);
    const auto equal_steps = [](int64_t all, int64_t step, int64_t unit) {
      return round_up(ceil_div(all, ceil_div(all, round_up(step, unit))), unit);
    };
    cut.m_step = equal_steps(panels, some_panels, 1) * kPanelRows;
    cut.n_step = equal_steps(N, rows, block);
  }
  cut.across = ceil_div(M, cut.m_step), cut.along = ceil_div(N, cut.n_step);
  return cut;
}

// Neighbours that add to one y: a task makes the same part of all of them, in their order.
bool adds_to_y_of(const GemmProblem& before, const GemmProblem& p) {
  return p.accumulate && p.y.data == before.y.data && p.y.shape == before.y.shape;
}

bool same_rows(const GemmProblem& a, const GemmProblem& b) {
  return a.x.data == b.x.data && a.x.row_stride == b.x.row_stride && a.x.shape == b.x.shape && a.rows == b.rows &&
         a.x_is_in_out == b.x_is_in_out && a.y[0] == b.y[0];
}

// Goes through the problems of a batch in order and knows, for the current one, its path, its tasks, the panels it must
// pack (none when the problem before it on the same path has the same rows) and where its packed rows lie.
class alignas(kAlignment) Walk {
 public:
  Walk(const GemmArgs& args, const Kernels& kernels, const Grain& grain = {})
      : next_(args.problems.data()),
        end_(args.problems.data() + args.problems.size()),
        form_(args.form),
        kernels_(&kernels),
        grain_(grain) {}

  // Goes to the end; what is left are the totals.
  Walk& finish() {
    while (next()) {}
    return *this;
  }

  bool next() {
    if (next_ == end_) return false;
    const bool follows = problem && has_follower();
    problem = next_++;
    path = path_of(*problem, form_, *kernels_);
    if (!follows) cut = cut_of(*problem, path, depth_of_chain(), *kernels_, grain_);
    first_task = end_task, end_task += follows ? 0 : cut.tasks();
    first_panel = end_panel;
    has_strips = has_strips || path == Path::dots || path == Path::in_out;
    if (path != Path::f32 && path != Path::bf16) return true;

    const int64_t k = depth_of(*problem);
    tile_products += problem->y[0] * problem->y[1] * k;
    panel_bytes = path == Path::f32 ? panel_bytes_f32(k) : panel_bytes_bf16(k);
    Packed& last = packed_[path == Path::bf16];
    if (!last.problem || !same_rows(*last.problem, *problem)) {
      const int64_t panels = ceil_div(problem->y[0], kPanelRows);
      last = {problem, packed_bytes};
      end_panel += panels, packed_bytes += panels * panel_bytes;
    }
    packed = last.offset;
    return true;
  }
  // Whether the next problem adds to the y of this one. It has no tasks of its own: this one's do its part, too.
  bool has_follower() const { return next_ != end_ && adds_to_y_of(*problem, *next_); }
  const GemmProblem* following() const { return next_ != end_ ? next_ : nullptr; }
  void seek_task(int64_t task) {
    while (task >= end_task) next();
  }
  void seek_panel(int64_t panel) {
    while (panel >= end_panel) next();
  }

  const GemmProblem* problem = nullptr;
  Path path = Path::none;
  Cut cut;
  int64_t first_task = 0, end_task = 0;
  int64_t first_panel = 0, end_panel = 0;
  int64_t panel_bytes = 0, packed = 0;  // of the current problem's packed rows
  int64_t packed_bytes = 0;             // of all problems so far
  bool has_strips = false;              // dots or in_out among them
  int64_t tile_products = 0;            // multiply-adds in tiles of all problems so far

 private:
  struct Packed {
    const GemmProblem* problem = nullptr;
    int64_t offset = 0;
  };
  int64_t depth_of_chain() const {
    int64_t depth = depth_of(*problem);
    for (const GemmProblem* p = next_; p != end_ && adds_to_y_of(p[-1], *p); ++p) depth += depth_of(*p);
    return depth;
  }

  const GemmProblem* next_;
  const GemmProblem* end_;
  GemmForm form_;
  const Kernels* kernels_;
  Grain grain_;
  Packed packed_[2];  // the last rows packed as f32 and as bf16
};

const float* x_row(const GemmProblem& p, int64_t m) { return p.x.row<float>(p.rows ? p.rows[m] : m); }

// Panels [panel, end) of the current problem.
void pack_columns(const Walk& at, int64_t panel, int64_t end, std::byte* packed) {
  const GemmProblem& p = *at.problem;
  const int64_t first = (panel - at.first_panel) * kPanelRows;
  const ColumnPanels columns{.x = p.x.as<float>() + first,
                             .x_stride = p.x.row_stride,
                             .k = p.x[0],
                             .columns = std::min(p.y[0], (end - at.first_panel) * kPanelRows) - first,
                             .panels = packed + at.packed + (panel - at.first_panel) * at.panel_bytes,
                             .panel_bytes = at.panel_bytes};
  (at.path == Path::f32 ? pack_column_panels_f32 : pack_column_panels_bf16)(columns);
}

void pack_rows(const Walk& at, int64_t panel, std::byte* packed) {
  const GemmProblem& p = *at.problem;
  const int64_t first = (panel - at.first_panel) * kPanelRows;
  const float* rows[kPanelRows];  // beyond the last row: the last again, its results are not stored
  for (int64_t r = 0; r < kPanelRows; ++r) rows[r] = x_row(p, std::min(first + r, p.y[0] - 1));
  std::byte* to = packed + at.packed + (panel - at.first_panel) * at.panel_bytes;
  (at.path == Path::f32 ? pack_panel_f32 : pack_panel_bf16)(rows, p.x[1], to);
}

constexpr int64_t kPanelsPerTask = 4;

void pack_task(Walk& at, int64_t panel, int64_t end_panel, std::byte* packed) {
  const int64_t end = std::min(panel + kPanelsPerTask, end_panel);
  for (int64_t next = panel; panel < end; panel = next) {
    at.seek_panel(panel);
    next = at.problem->x_is_in_out ? std::min(end, at.end_panel) : panel + 1;
    if (at.problem->x_is_in_out) pack_columns(at, panel, next, packed);
    else pack_rows(at, panel, packed);
  }
}

// One thread's: a tile's results and weights, or rows of x rounded for strips.
struct Scratch {
  alignas(kAlignment) float c[kTilePanels * kTileRows * kPanelRows];
  alignas(kAlignment) std::byte weights[kTileRows * kTileRowBytes];
  const GemmProblem* rounded;  // whose rows from rounded_m0 on lie here, null: nobody's
  int64_t rounded_m0;
};

// The w that the task after this one reads, where its rows lie as these do.
const std::byte* after(const Walk& at, int64_t n_end) {
  const GemmProblem& p = *at.problem;
  if (n_end < p.y[1]) return p.w.data + n_end * p.w.row_stride * size_of(p.w.dtype);
  const GemmProblem* next = at.following();
  const bool alike = next && next->w.dtype == p.w.dtype && next->w.row_stride == p.w.row_stride && next->y[0] > 0;
  return alike ? next->w.data : nullptr;
}

void run_strip(const Walk& at, int64_t m0, int64_t n0, const Kernels& kernels, Scratch& scratch) {
  const GemmProblem& p = *at.problem;
  Strip strip{.m = std::min(at.cut.m_step, p.y[0] - m0),
              .w = p.w.data + n0 * (p.w_is_in_out ? 1 : p.w.row_stride) * size_of(p.w.dtype),
              .w_dtype = p.w.dtype,
              .w_stride = p.w.row_stride,
              .n = std::min(at.cut.n_step, p.y[1] - n0),
              .k = depth_of(p),
              .accumulate = p.accumulate,
              .small = p.y[1] * depth_of(p) * size_of(p.w.dtype) <= kSmallBytes};
  for (int64_t m = 0; m < strip.m; ++m) strip.x[m] = x_row(p, m0 + m), strip.y[m] = p.y.row<float>(m0 + m) + n0;
  if (p.w_is_in_out) return multiply_strip_in_out(strip);
  strip.after = after(at, n0 + strip.n);
  const int64_t row_bytes = rounded_row_bytes(strip.k), room = offsetof(Scratch, rounded);
  if (!kernels.dots_bf16 || p.w.dtype != DType::bf16 || p.exact || row_bytes > room) return multiply_strip_dots(strip);
  strip.scratch = reinterpret_cast<std::byte*>(&scratch), strip.scratch_bytes = room;
  const bool fits = strip.m * row_bytes <= room;
  strip.x_is_rounded = fits && scratch.rounded && scratch.rounded_m0 == m0 && same_rows(*scratch.rounded, p);
  kernels.dots_bf16(strip);
  scratch.rounded = fits ? &p : nullptr, scratch.rounded_m0 = m0;
}

void run_tile(const Walk& at, int64_t m0, int64_t n0, const std::byte* packed, const TileKernel& kernel,
              Scratch& scratch) {
  const GemmProblem& p = *at.problem;
  const int64_t m = std::min(at.cut.m_step, p.y[0] - m0), n = std::min(at.cut.n_step, p.y[1] - n0);
  kernel.multiply({.w = p.w.data + n0 * p.w.row_stride * size_of(p.w.dtype),
                   .w_dtype = p.w.dtype,
                   .w_stride = p.w.row_stride,
                   .n = n,
                   .k = depth_of(p),
                   .x = packed + at.packed + m0 / kPanelRows * at.panel_bytes,
                   .panel_bytes = at.panel_bytes,
                   .panels = ceil_div(m, kPanelRows),
                   .y = p.y.row<float>(m0) + n0,
                   .y_stride = p.y.row_stride,
                   .m = m,
                   .accumulate = p.accumulate,
                   .c = scratch.c,
                   .scratch = scratch.weights});
}

Grain choose_grain(const GemmArgs& args, const Kernels& kernels, int n_threads) {
  Grain grain;
  if (n_threads == 1) return grain;
  const int64_t wanted = kTasksPerThread * n_threads;
  const Walk whole = Walk(args, kernels, grain).finish();
  grain.tile_products = whole.tile_products / wanted;
  if (whole.has_strips)
    while (grain.strip_bytes > kLeastStripBytes && Walk(args, kernels, grain).finish().end_task < wanted)
      grain.strip_bytes /= 2;
  return grain;
}

// A part of the current problem's y.
void run_task(const Walk& at, int64_t m0, int64_t n0, const std::byte* packed, const Kernels& kernels,
              Scratch& scratch) {
  if (at.path == Path::dots || at.path == Path::in_out) run_strip(at, m0, n0, kernels, scratch);
  else
    scratch.rounded = nullptr,
    run_tile(at, m0, n0, packed, at.path == Path::bf16 ? *kernels.bf16 : *kernels.f32, scratch);
}

}  // namespace

void run_batch(const GemmArgs& args, const Exec& exec, const Kernels& kernels,
               const Preparation* preparation) noexcept {
  const Workspace::Scope scope(exec.workspace);
  const int n_threads = exec.pool.size();
  const Walk start(args, kernels, choose_grain(args, kernels, n_threads));
  const Walk all = Walk(start).finish();
  if (all.end_task == 0) return;
  // One walk a thread: the pool hands out indices in ascending order, so each only ever moves forward.
  Walk* walks = exec.workspace.take<Walk>(n_threads);
  Scratch* scratch = exec.workspace.take<Scratch>(n_threads);
  std::byte* packed = exec.workspace.take<std::byte>(all.packed_bytes);

  for (int thread = 0; thread < n_threads; ++thread) new (walks + thread) Walk(start);
  const int64_t prepared = preparation ? preparation->tasks : 0;
  exec.pool.parallel_for(prepared + ceil_div(all.end_panel, kPanelsPerTask), 1,
                         [&](int64_t begin, int64_t end, int thread) {
                           for (int64_t task = begin; task < end; ++task) {
                             if (task < prepared) preparation->run(task);
                             else pack_task(walks[thread], (task - prepared) * kPanelsPerTask, all.end_panel, packed);
                           }
                         });
  for (int thread = 0; thread < n_threads; ++thread)
    new (walks + thread) Walk(start), scratch[thread].rounded = nullptr;
  exec.pool.parallel_for(all.end_task, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t task = begin; task < end; ++task) {
      Walk& at = walks[thread];
      at.seek_task(task);
      const int64_t i = task - at.first_task;
      const int64_t m0 = i % at.cut.across * at.cut.m_step, n0 = i / at.cut.across * at.cut.n_step;
      run_task(at, m0, n0, packed, kernels, scratch[thread]);
      if (!at.has_follower()) continue;
      for (Walk chain = at; chain.has_follower();) {
        chain.next();
        run_task(chain, m0, n0, packed, kernels, scratch[thread]);
      }
    }
  });
}

size_t batch_fixed_bytes(int n_threads) {
  return static_cast<size_t>(n_threads) * (sizeof(Scratch) + sizeof(Walk)) + 3 * kAlignment;
}

size_t batch_workspace_bytes(const GemmArgs& args, int n_threads, const Kernels& kernels) {
  const Walk all = Walk(args, kernels).finish();
  return batch_fixed_bytes(n_threads) + static_cast<size_t>(all.packed_bytes);
}

// Rows are packed for a path in panels: 9 rows fill 16, no number from 9 on fills twice itself. One x can be packed for
// both paths.
size_t workspace_bound(int64_t rows, int64_t k, int n_threads) {
  const int64_t row_bytes = (panel_bytes_f32(k) + panel_bytes_bf16(k)) / kPanelRows;
  return batch_fixed_bytes(n_threads) + static_cast<size_t>(2 * rows * row_bytes);
}

}  // namespace linnet::ops::gemm
