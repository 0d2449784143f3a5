// Muon. Matrices are collected into rounds whose scratch is bounded; the matrices of a round go through each stage of each
// iteration together: element-wise passes cut into tasks over all of them, products as one batch.
//
// X is u / |u|, transposed if u is tall, so that it has no more rows than columns. An iteration:
//   A = X X^T          x := X, w := X
//   A A                x := A, w := A, which is symmetric
//   B = b A + c A A
//   X = a X + B X      x := B, w := X^T
// Left operands are f32 and rounded as they are packed; right operands (w) are copies in bf16 where the products are.
#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <optional>

#include "ops/gemm/gemm.h"
#include "ops/gemm/gemm_bwd.h"
#include "ops/optim/optim_kernels.h"

namespace linnet::ops::optim {
namespace {

constexpr int kIterations = 5;
constexpr float kA = 3.4445f, kB = -4.7750f, kC = 2.0315f;

constexpr int64_t kSpan = 16384;                         // elements of one task of an element-wise pass
constexpr int64_t kStripRows = 32, kStripColumns = 512;  // of one task that transposes
constexpr int64_t kRoundMatrices = 1024;
constexpr int64_t kRoundBytes = 16 << 20;  // of scratch, unless one matrix needs more
constexpr int64_t kRoundBytesPerThread = 2 << 20;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t aligned(int64_t bytes) { return static_cast<int64_t>(aligned_size(static_cast<size_t>(bytes))); }

// Where the parts of one matrix lie in scratch.
struct Extents {
  int64_t rows, columns;  // of X
  bool tall, bf16_products;
  Extents(const MuonMatrix& m, bool bf16)
      : rows(std::min(m.w[0], m.w[1])), columns(std::max(m.w[0], m.w[1])), tall(m.w[0] > m.w[1]), bf16_products(bf16) {}

  int64_t elements() const { return rows * columns; }
  int64_t spans() const { return ceil_div(elements(), kSpan); }
  // Of X^T: whole cache lines, and not a power of two, whose rows would compete for the same places of a cache.
  int64_t transposed_stride() const { return ceil_div(rows, kStripRows) * kStripRows + kStripRows; }
  int64_t transposed_bytes() const { return columns * transposed_stride() * (bf16_products ? 2 : 4); }
  int64_t second_bytes() const { return std::max(transposed_bytes(), tall ? elements() * 4 : 0); }
  int64_t bytes() const {
    const int64_t copies = bf16_products ? aligned(elements() * 2) + aligned(rows * rows * 2) : 0;
    const int64_t packed = ceil_div(rows, 16) * 16 * ceil_div(columns, 32) * 32 * 4;
    return aligned(elements() * 4) + aligned(second_bytes()) + 2 * aligned(rows * rows * 4) + copies +
           aligned(spans() * 8) + packed;
  }
};

struct Work {
  const MuonMatrix* matrix;
  Extents extents;
  Tensor x;                 // [rows, columns]
  Tensor u;                 // [N, K], the update: x itself, or if tall another, in the memory of x_t
  Tensor x_t;               // [columns, rows]
  ConstTensor x_as_w;       // x or its bf16 copy
  Tensor square, fourth;    // [rows, rows]
  ConstTensor square_as_w;  // square or its bf16 copy
  double* sums;             // [spans] of squares
  float inverse_norm;
};

Work make_work(const MuonMatrix& m, bool bf16_products, Workspace& workspace) {
  const Extents e(m, bf16_products);
  Work w{.matrix = &m, .extents = e};
  w.x = workspace.tensor<float>({e.rows, e.columns});
  std::byte* second = workspace.take<std::byte>(e.second_bytes());
  w.x_t = Tensor(second, bf16_products ? DType::bf16 : DType::f32, {e.columns, e.rows});
  w.x_t.row_stride = e.transposed_stride();
  w.u = Tensor(e.tall ? second : w.x.data, DType::f32, {m.w[0], m.w[1]});
  w.square = workspace.tensor<float>({e.rows, e.rows});
  w.fourth = workspace.tensor<float>({e.rows, e.rows});
  w.x_as_w = bf16_products ? workspace.tensor<bf16>({e.rows, e.columns}) : w.x;
  w.square_as_w = bf16_products ? workspace.tensor<bf16>({e.rows, e.rows}) : w.square;
  w.sums = workspace.take<double>(e.spans());
  return w;
}

bf16* copy_of(const ConstTensor& t) { return const_cast<bf16*>(t.as<bf16>()); }

// Independent matrices, collected until they would need too much scratch, then updated.
class Round {
 public:
  Round(const MuonArgs& args, const Exec& exec, Isa needs, int64_t capacity)
      : args_(args),
        exec_(exec),
        products_of_(gemm_variant(needs)),
        bf16_products_(needs != Isa::baseline && args.compute == DType::bf16),
        capacity_(capacity),
        most_bytes_(kRoundBytes + kRoundBytesPerThread * exec.pool.size()),
        works_(exec.workspace.take<Work>(capacity)),
        products_(exec.workspace.take<GemmProblem>(capacity)),
        ends_(exec.workspace.take<int64_t>(capacity)) {
    scratch_.emplace(exec.workspace);
  }

  void add(const MuonMatrix& m) {
    if (m.w.elements() == 0) return;
    const int64_t bytes = Extents(m, bf16_products_).bytes();
    if (n_ == capacity_ || (n_ > 0 && bytes_ + bytes > most_bytes_)) run();
    new (works_ + n_++) Work(make_work(m, bf16_products_, exec_.workspace));
    bytes_ += bytes;
  }

  void run() {
    start();
    for (int iteration = 0; iteration < kIterations; ++iteration) iterate(iteration == 0);
    finish();
    n_ = bytes_ = 0;
    scratch_.reset();
    scratch_.emplace(exec_.workspace);
  }

 private:
  // body(work, task) for the tasks [0, count(work)) of all matrices.
  template <class Count, class Body>
  void for_tasks(const Count& count, const Body& body) {
    int64_t total = 0;
    for (int64_t i = 0; i < n_; ++i) ends_[i] = total += count(works_[i]);
    exec_.pool.parallel_for(total, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t i = std::upper_bound(ends_, ends_ + n_, task) - ends_;
        body(works_[i], task - (i > 0 ? ends_[i - 1] : 0));
      }
    });
  }
  // body(work, first element, count) over spans of matrices of `elements(work)` numbers.
  template <class Elements, class Body>
  void for_spans(const Elements& elements, const Body& body) {
    for_tasks([&](const Work& w) { return ceil_div(elements(w), kSpan); },
              [&](Work& w, int64_t task) {
                const int64_t first = task * kSpan;
                body(w, first, std::min(kSpan, elements(w) - first));
              });
  }
  // body(work, rows and columns of a part) over parts of the matrices tensor(work) that are wanted.
  template <class Of, class Body>
  void for_strips(const Of& tensor, const Body& body) {
    const auto across = [&](const Work& w) { return ceil_div(tensor(w)[1], kStripColumns); };
    for_tasks([&](const Work& w) { return across(w) * ceil_div(tensor(w)[0], kStripRows); },
              [&](Work& w, int64_t task) {
                const int64_t r = task / across(w) * kStripRows, c = task % across(w) * kStripColumns;
                const Tensor t = tensor(w);
                body(w, r, std::min(r + kStripRows, t[0]), c, std::min(c + kStripColumns, t[1]));
              });
  }
  template <class Problem>
  void multiply(const Problem& problem) {
    for (int64_t i = 0; i < n_; ++i) new (products_ + i) GemmProblem(problem(works_[i]));
    products_of_.run({{products_, static_cast<size_t>(n_)}}, exec_);
  }

  // m and u, and X = u but for the norm, which it leaves in inverse_norm.
  void start() {
    for_spans([](const Work& w) { return w.extents.elements(); },
              [&](Work& w, int64_t first, int64_t n) {
                float* u = w.u.as<float>() + first;
                momentum_span({.m = w.matrix->m.as<float>() + first,
                               .grad = w.matrix->grad.as<float>() + first,
                               .u = u,
                               .n = n,
                               .momentum = args_.momentum,
                               .scale = args_.grad_scale,
                               .nesterov = args_.nesterov});
                w.sums[first / kSpan] = sum_of_squares_span(u, n);
              });
    for (int64_t i = 0; i < n_; ++i) {
      double sum = 0;
      for (int64_t s = 0; s < works_[i].extents.spans(); ++s) sum += works_[i].sums[s];
      const double most = std::numeric_limits<float>::max();  // for a norm of zero or of subnormal numbers
      works_[i].inverse_norm = static_cast<float>(std::min(1 / std::sqrt(sum), most));
    }
    transpose_tall([](const Work& w) { return w.u; }, [](const Work& w) { return w.x; });
  }

  template <class From, class To>
  void transpose_tall(const From& from, const To& to) {
    const auto tall = [&](const Work& w) { return w.extents.tall ? from(w) : Tensor(nullptr, DType::f32, {0, 0}); };
    for_strips(tall, [&](const Work& w, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
      transpose(from(w).rows(r0, r1).columns(c0, c1), to(w).rows(c0, c1).columns(r0, r1), exec_);
    });
  }

  // The copies of X as right operands; at first X is divided by its norm.
  void copy_operands(bool first) {
    for_strips([](const Work& w) { return w.x; },
               [&](const Work& w, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
                 for (int64_t r = r0; r < r1; ++r) {
                   float* x = w.x.row<float>(r) + c0;
                   if (first) scale_span(x, c1 - c0, w.inverse_norm);
                   if (bf16_products_) narrow_span(x, c1 - c0, copy_of(w.x_as_w) + r * w.x_as_w.row_stride + c0);
                 }
                 transpose(w.x.rows(r0, r1).columns(c0, c1), w.x_t.rows(c0, c1).columns(r0, r1), exec_);
               });
  }

  // B in place of A A, and a X in place of X.
  void combine() {
    const auto spans = [](int64_t elements) { return ceil_div(elements, kSpan); };
    for_tasks([&](const Work& w) { return spans(w.square.elements()) + w.extents.spans(); },
              [&](const Work& w, int64_t task) {
                const int64_t before = spans(w.square.elements()), at = (task < before ? task : task - before) * kSpan;
                const Tensor& t = task < before ? w.fourth : w.x;
                const int64_t n = std::min(kSpan, t.elements() - at);
                if (task < before) combine_span(w.square.as<float>() + at, kB, t.as<float>() + at, kC, n);
                else scale_span(t.as<float>() + at, n, kA);
              });
  }

  void iterate(bool first) {
    const auto squared = [](const Work& w) { return w.extents.rows * w.extents.rows; };
    copy_operands(first);
    multiply([](const Work& w) { return GemmProblem{.x = w.x, .w = w.x_as_w, .y = w.square}; });
    if (bf16_products_)
      for_spans(squared, [](const Work& w, int64_t at, int64_t n) {
        narrow_span(w.square.as<float>() + at, n, copy_of(w.square_as_w) + at);
      });
    multiply([](const Work& w) { return GemmProblem{.x = w.square, .w = w.square_as_w, .y = w.fourth}; });
    combine();
    multiply([](const Work& w) { return GemmProblem{.x = w.fourth, .w = w.x_t, .y = w.x, .accumulate = true}; });
  }

  void finish() {
    transpose_tall([](const Work& w) { return Tensor(w.x); }, [](const Work& w) { return w.u; });
    const float decay = args_.lr * args_.weight_decay;
    for_spans([](const Work& w) { return w.extents.elements(); },
              [&](const Work& w, int64_t at, int64_t n) {
                const double factor = 0.2 * std::sqrt(static_cast<double>(w.extents.columns));
                update_span(w.matrix->w.as<float>() + at, w.u.as<float>() + at, n,
                            static_cast<float>(args_.lr * factor), decay);
              });
  }

  const MuonArgs& args_;
  const Exec& exec_;
  const Variant<GemmArgs>& products_of_;
  bool bf16_products_;
  int64_t capacity_, most_bytes_;
  Work* works_;
  GemmProblem* products_;
  int64_t* ends_;
  std::optional<Workspace::Scope> scratch_;  // of the round
  int64_t n_ = 0, bytes_ = 0;
};

int64_t capacity_of(const MuonArgs& args) {
  return std::min(static_cast<int64_t>(args.matrices.size()), kRoundMatrices);
}

}  // namespace

void run_muon(const MuonArgs& args, const Exec& exec, Isa needs) noexcept {
  if (args.matrices.empty()) return;
  const Workspace::Scope scope(exec.workspace);
  Round round(args, exec, needs, capacity_of(args));
  for (const MuonMatrix& m : args.matrices) round.add(m);
  round.run();
}

size_t muon_workspace_bytes(const MuonArgs& args, int n_threads, Isa needs) {
  const bool bf16_products = needs != Isa::baseline && args.compute == DType::bf16;
  int64_t all = 0, largest = 0;
  for (const MuonMatrix& m : args.matrices) {
    const int64_t bytes = Extents(m, bf16_products).bytes();
    all += bytes, largest = std::max(largest, bytes);
  }
  const int64_t round = std::max(std::min(all, kRoundBytes + kRoundBytesPerThread * n_threads), largest);
  const auto lists = [&](size_t size) { return aligned_size(static_cast<size_t>(capacity_of(args)) * size); };
  return lists(sizeof(Work)) + lists(sizeof(GemmProblem)) + lists(sizeof(int64_t)) + static_cast<size_t>(round) +
         gemm_workspace_bytes(0, 1, n_threads);
}

}  // namespace linnet::ops::optim
