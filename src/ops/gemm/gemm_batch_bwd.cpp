// Gradients as batches of the forward's products. A gradient is cut into pieces of at most kTokenBlock tokens:
//   dx[m, k] (+)= sum_n dy[m, n] w_t[k, n]            x := dy, w := w_t
//   dw[n, k]  +=  sum_m dy[m, n] x^T[k, m]            x := dy by its columns, w := x^T, transposed (and narrowed) before
// The pieces run in rounds whose scratch is bounded. Those that add to the same memory do so in the list's and the tokens' order,
// so bits depend on kTokenBlock and on nothing else.
#include <algorithm>
#include <new>
#include <optional>

#include "ops/gemm/gemm_bwd.h"
#include "ops/gemm/gemm_kernels.h"

namespace linnet::ops::gemm {
namespace {

constexpr int64_t kTokenBlock = 2048;
constexpr int64_t kRoundProducts = 512;            // most in one round
constexpr int64_t kRoundBytes = 16 << 20;          // of packed and transposed operands in one round, unless one piece
constexpr int64_t kRoundBytesPerThread = 1 << 20;  // needs more; and so much more for each thread
constexpr int64_t kTransposeElements = 16 << 10;   // of one task, about
constexpr int64_t kStripColumns = 64;              // and multiples of so many columns

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Tokens [0, M) in blocks of equal size, but for the last; a size is a multiple of whole cache lines of transposed bf16.
struct Blocks {
  explicit Blocks(int64_t m)
      : tokens(m), count(ceil_div(m, kTokenBlock)), step(count ? round_up(ceil_div(m, count), kTransposeRows) : 0) {
    count = step ? ceil_div(m, step) : 0;
  }
  int64_t begin(int64_t i) const { return i * step; }
  int64_t end(int64_t i) const { return std::min(tokens, (i + 1) * step); }
  int64_t tokens, count, step;
};

bool wants_dx(const GemmBwdProblem& p) { return p.dx && p.dy[0] > 0 && p.dx[1] > 0; }
bool wants_dw(const GemmBwdProblem& p) { return p.dw && p.dy[0] > 0 && p.dw.elements() > 0; }
bool in_bf16(const GemmBwdProblem& p, const Kernels& kernels) { return kernels.bf16 && p.compute == DType::bf16; }

// Row stride of x^T for so many tokens: whole cache lines, and not a power of two, whose rows would compete for the same
// places of a cache.
int64_t transposed_stride(int64_t tokens) { return round_up(tokens, kTransposeRows) + kTransposeRows; }

int64_t bytes_of_panels(int64_t rows, int64_t k, bool bf16) {
  return ceil_div(rows, kPanelRows) * (bf16 ? panel_bytes_bf16(k) : panel_bytes_f32(k));
}
int64_t bytes_of_dx(const GemmBwdProblem& p, int64_t tokens, const Kernels& kernels) {
  return bytes_of_panels(tokens, p.dy[1], in_bf16(p, kernels) && p.w_t.dtype == DType::bf16);
}
int64_t bytes_of_transposed(const GemmBwdProblem& p, int64_t tokens, const Kernels& kernels) {
  return p.dw[1] * transposed_stride(tokens) * (in_bf16(p, kernels) ? 2 : 4);
}
int64_t bytes_of_dw(const GemmBwdProblem& p, int64_t tokens, const Kernels& kernels) {
  return bytes_of_panels(p.dy[1], tokens, in_bf16(p, kernels)) + bytes_of_transposed(p, tokens, kernels);
}

// Steps: in step s, block s of each dx is made, and block s - first[i] of the dw of problem i. What adds to one dw waits
// for all blocks of those before it in the list. Returns the number of steps.
int64_t assign_steps(std::span<const GemmBwdProblem> problems, int64_t* first) {
  int64_t count = 0;
  for (size_t i = 0; i < problems.size(); ++i) {
    const GemmBwdProblem& p = problems[i];
    first[i] = 0;
    for (size_t j = i; wants_dw(p) && j-- > 0;) {
      if (!wants_dw(problems[j]) || problems[j].dw.data != p.dw.data) continue;
      first[i] = first[j] + Blocks(problems[j].dy[0]).count;
      break;
    }
    count = std::max(count, first[i] + Blocks(p.dy[0]).count);
  }
  return count;
}

struct Transposition {
  const GemmBwdProblem* problem;
  int64_t begin, end;  // tokens
  Tensor to;           // [K, tokens]
  int64_t columns;     // of x, in one task
  int64_t first_task, end_task;
};

bool same_x(const GemmBwdProblem& a, const GemmBwdProblem& b) {
  return a.x.data == b.x.data && a.x.row_stride == b.x.row_stride && a.x[1] == b.x[1] && a.rows == b.rows &&
         a.dy[0] == b.dy[0] && a.compute == b.compute;
}

void transpose_strip(const Transposition& t, int64_t column) {
  const GemmBwdProblem& p = *t.problem;
  const float* rows[2 * kTransposeRows];
  for (int64_t m = t.begin; m < t.end; m += kTransposeRows) {
    const int64_t n = std::min(kTransposeRows, t.end - m), ahead = std::min(kTransposeRows, t.end - m - n);
    for (int64_t i = 0; i < n + ahead; ++i) rows[i] = p.x.row<float>(p.rows ? p.rows[m + i] : m + i) + column;
    transpose_block({.rows = rows,
                     .n = n,
                     .ahead = ahead,
                     .columns = std::min(t.columns, t.to[0] - column),
                     .to = t.to.data + (column * t.to.row_stride + m - t.begin) * size_of(t.to.dtype),
                     .to_dtype = t.to.dtype,
                     .to_stride = t.to.row_stride});
  }
}

// Pieces, collected until they would need too much scratch, then run. Those that add to the same memory are brought together,
// in the order in which they came: a batch makes such neighbours one after the other.
class Round {
 public:
  struct Piece {
    GemmProblem product;
    int64_t next, last;  // that adds to the same memory, and the last of all, which only the first knows; -1: none
    bool is_first;
  };

  Round(const Exec& exec, const Kernels& kernels, int64_t capacity)
      : exec_(exec),
        kernels_(kernels),
        capacity_(capacity),
        most_bytes_(kRoundBytes + kRoundBytesPerThread * exec.pool.size()),
        pieces_(exec.workspace.take<Piece>(capacity)),
        products_(exec.workspace.take<GemmProblem>(capacity)),
        transpositions_(exec.workspace.take<Transposition>(capacity)) {
    operands_.emplace(exec.workspace);
  }

  void add_dx(const GemmBwdProblem& p, int64_t begin, int64_t end) {
    make_room(bytes_of_dx(p, end - begin, kernels_));
    add({.x = p.dy.rows(begin, end),
         .w = p.w_t,
         .y = p.dx.rows(begin, end),
         .accumulate = p.accumulate_dx,
         .exact = p.compute == DType::f32});
  }

  void add_dw(const GemmBwdProblem& p, int64_t begin, int64_t end) {
    make_room(bytes_of_dw(p, end - begin, kernels_));
    const Transposition* x_t = transposition(p, begin);
    if (x_t) bytes_ -= bytes_of_transposed(p, end - begin, kernels_);
    else x_t = transpose(p, begin, end);
    add({.x = p.dy.rows(begin, end), .w = x_t->to, .y = p.dw, .x_is_in_out = true, .accumulate = true});
  }

  void run() {
    const int64_t tasks = n_transpositions_ ? transpositions_[n_transpositions_ - 1].end_task : 0;
    const auto transpose_task = [&](int64_t task) {
      const Transposition& t =
          *std::partition_point(transpositions_, transpositions_ + n_transpositions_,
                                [&](const Transposition& other) { return other.end_task <= task; });
      transpose_strip(t, (task - t.first_task) * t.columns);
    };
    const Preparation preparation{tasks, transpose_task};
    int64_t n = 0;
    for (int64_t i = 0; i < n_pieces_; ++i)
      for (int64_t at = pieces_[i].is_first ? i : -1; at >= 0; at = pieces_[at].next)
        new (products_ + n++) GemmProblem(pieces_[at].product);
    run_batch({{products_, static_cast<size_t>(n)}}, exec_, kernels_, &preparation);
    n_pieces_ = n_transpositions_ = bytes_ = 0;
    operands_.reset();
    operands_.emplace(exec_.workspace);
  }

 private:
  void make_room(int64_t bytes) {
    if (n_pieces_ == capacity_ || (n_pieces_ > 0 && bytes_ + bytes > most_bytes_)) run();
    bytes_ += bytes;
  }
  void add(const GemmProblem& product) {
    const int64_t at = n_pieces_++;
    new (pieces_ + at) Piece{.product = product, .next = -1, .last = at, .is_first = true};
    for (int64_t i = at; i-- > 0;) {
      Piece& first = pieces_[i];
      if (!first.is_first || first.product.y.data != product.y.data) continue;
      pieces_[at].is_first = false;
      pieces_[first.last].next = at, first.last = at;
      return;
    }
  }
  const Transposition* transposition(const GemmBwdProblem& p, int64_t begin) const {
    for (int64_t i = n_transpositions_; i-- > 0;)
      if (transpositions_[i].begin == begin && same_x(*transpositions_[i].problem, p)) return &transpositions_[i];
    return nullptr;
  }
  const Transposition* transpose(const GemmBwdProblem& p, int64_t begin, int64_t end) {
    const int64_t tokens = end - begin, K = p.dw[1];
    const int64_t columns = std::max<int64_t>(kTransposeElements / tokens / kStripColumns, 1) * kStripColumns;
    const int64_t first = n_transpositions_ ? transpositions_[n_transpositions_ - 1].end_task : 0;
    Tensor to(exec_.workspace.take<std::byte>(bytes_of_transposed(p, tokens, kernels_)),
              in_bf16(p, kernels_) ? DType::bf16 : DType::f32, {K, tokens});
    to.row_stride = transposed_stride(tokens);
    return new (transpositions_ + n_transpositions_++)
        Transposition{&p, begin, end, to, columns, first, first + ceil_div(K, columns)};
  }

  const Exec& exec_;
  const Kernels& kernels_;
  int64_t capacity_, most_bytes_;
  Piece* pieces_;
  GemmProblem* products_;  // the pieces as they run
  Transposition* transpositions_;
  std::optional<Workspace::Scope> operands_;  // of the round: what is transposed
  int64_t n_pieces_ = 0, n_transpositions_ = 0, bytes_ = 0;
};

struct Needs {
  int64_t all = 0, largest = 0;  // bytes of the operands of all pieces, and of one
  int64_t pieces = 0;
};

Needs needs_of(const GemmBwdArgs& args, const Kernels& kernels) {
  Needs needs;
  const auto count = [&](int64_t n, int64_t whole, int64_t last) {
    needs.all += (n - 1) * whole + last, needs.largest = std::max(needs.largest, n > 1 ? whole : last);
    needs.pieces += n;
  };
  for (const GemmBwdProblem& p : args.problems) {
    const Blocks blocks(p.dy[0]);
    const int64_t n = blocks.count, last = n ? blocks.end(n - 1) - blocks.begin(n - 1) : 0;
    if (wants_dx(p)) count(n, bytes_of_dx(p, blocks.step, kernels), bytes_of_dx(p, last, kernels));
    if (wants_dw(p)) count(n, bytes_of_dw(p, blocks.step, kernels), bytes_of_dw(p, last, kernels));
  }
  return needs;
}

int64_t capacity_of(int64_t pieces) { return std::min(pieces, kRoundProducts); }

}  // namespace

void run_bwd(const GemmBwdArgs& args, const Exec& exec, const Kernels& kernels) noexcept {
  const Workspace::Scope scope(exec.workspace);
  int64_t* first = exec.workspace.take<int64_t>(static_cast<int64_t>(args.problems.size()));
  const int64_t n_steps = assign_steps(args.problems, first);
  Round round(exec, kernels, capacity_of(needs_of(args, kernels).pieces));
  for (int64_t step = 0; step < n_steps; ++step)
    for (size_t i = 0; i < args.problems.size(); ++i) {
      const GemmBwdProblem& p = args.problems[i];
      const Blocks blocks(p.dy[0]);
      if (wants_dx(p) && step < blocks.count) round.add_dx(p, blocks.begin(step), blocks.end(step));
      const int64_t b = step - first[i];
      if (wants_dw(p) && b >= 0 && b < blocks.count) round.add_dw(p, blocks.begin(b), blocks.end(b));
    }
  round.run();
}

size_t bwd_workspace_bytes(const GemmBwdArgs& args, int n_threads, const Kernels& kernels) {
  const Needs needs = needs_of(args, kernels);
  const int64_t round = kRoundBytes + kRoundBytesPerThread * n_threads;
  const size_t capacity = static_cast<size_t>(capacity_of(needs.pieces));
  return aligned_size(args.problems.size() * sizeof(int64_t)) + aligned_size(capacity * sizeof(Round::Piece)) +
         aligned_size(capacity * sizeof(GemmProblem)) + aligned_size(capacity * sizeof(Transposition)) +
         batch_fixed_bytes(n_threads) + static_cast<size_t>(std::max(std::min(needs.all, round), needs.largest));
}

}  // namespace linnet::ops::gemm
