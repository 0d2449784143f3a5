// What the contract promises beside the numbers: bits that depend on nothing else, memory that is never touched,
// errors, scratch.
#include <sys/mman.h>
#include <unistd.h>

#include "core/errors.h"
#include "ops/gemm/gemm_cases.h"

namespace linnet::ops::gemm_test {
namespace {

void expect_same_bits(const std::vector<GemmProblem>& got, const std::vector<GemmProblem>& want) {
  for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(test::same_bits(got[i].y, want[i].y)) << "problem " << i;
}

TEST(GemmContract, BitsDoNotDependOnThreads) {
  Batch batch(5);
  for (DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (bool exact : {false, true}) {
      batch.add({300, 130, 600}, {.dtype = dtype, .gather = true, .exact = exact});
      batch.add({300, 250, 600}, {.dtype = dtype, .exact = exact}, true);
      batch.add({6, 1000, 130}, {.dtype = dtype, .exact = exact});
      batch.add({20, 700, 50}, {.dtype = dtype, .exact = exact, .in_out = true});
      batch.add({300, 130, 600}, {.dtype = dtype, .exact = exact, .x_in_out = true});
    }
  for (const Variant<GemmArgs>* v : runnable_variants()) {
    SCOPED_TRACE(v->name);
    const auto one = run(*v, batch, 1);
    for (int n_threads : {2, 3}) expect_same_bits(run(*v, batch, n_threads), one);
  }
}

// Row m of a product of few rows and of many: the same x, w and y, cut to fewer rows.
void expect_rows_independent(const Options& o, int64_t many, std::initializer_list<int64_t> fewer) {
  Batch batch(9);
  batch.add({many, 203, 1100}, o);
  for (const Variant<GemmArgs>* v : runnable_variants()) {
    SCOPED_TRACE(cat(v->name, " ", name_of(o.dtype), o.exact ? " exact" : "", o.in_out ? " in_out" : ""));
    const auto all = run(*v, batch);
    for (int64_t M : fewer) {
      std::vector<GemmProblem> part = batch.fresh();
      part[0].y = part[0].y.rows(0, M);
      if (!part[0].rows) part[0].x = part[0].x.rows(0, M);
      test::run_plan(Plan<GemmArgs>(*v), GemmArgs{part});
      EXPECT_TRUE(test::same_bits(part[0].y, all[0].y.rows(0, M))) << M << " rows of " << many;
    }
  }
}

TEST(GemmContract, BitsOfARowDoNotDependOnItsNeighbours) {
  for (DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (bool exact : {false, true}) {
      expect_rows_independent({.dtype = dtype, .gather = true, .exact = exact}, 300, {9, 16, 17, 31, 32, 100, 257});
      expect_rows_independent({.dtype = dtype, .exact = exact}, kGemvRows, {1, 2, 3, 4, 5, 7});
      expect_rows_independent({.dtype = dtype, .exact = exact, .in_out = true}, 20, {1, 2, 3, 5, 8, 9, 15});
    }
}

// A fixed form gives many rows and few what the choice by count gives to those it takes there.
TEST(GemmContract, AFixedFormIsTheSameForAnyNumberOfRows) {
  for (DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (bool exact : {false, true}) {
      Batch batch(21);
      batch.add({150, 203, 1100}, {.dtype = dtype, .gather = true, .exact = exact});
      for (const Variant<GemmArgs>* v : runnable_variants()) {
        SCOPED_TRACE(cat(v->name, " ", name_of(dtype), exact ? " exact" : ""));
        const auto rows = [&](GemmForm form, int64_t begin, int64_t end) {
          std::vector<GemmProblem> part = batch.fresh();
          part[0].y = part[0].y.rows(begin, end), part[0].rows += begin;
          test::run_plan(Plan<GemmArgs>(*v), GemmArgs{part, form});
          return part[0].y;
        };
        const Tensor tiles = rows(GemmForm::by_count, 0, 150), dots = rows(GemmForm::dots, 0, 150);
        EXPECT_TRUE(test::same_bits(rows(GemmForm::tiles, 0, 150), tiles));
        for (int64_t begin : {0, 5, 64})
          for (int64_t count : {1, 2, 3, 4, 7, 8}) {
            SCOPED_TRACE(cat(count, " rows from ", begin));
            EXPECT_TRUE(test::same_bits(rows(GemmForm::tiles, begin, begin + count), tiles.rows(begin, begin + count)));
            EXPECT_TRUE(
                test::same_bits(rows(GemmForm::by_count, begin, begin + count), dots.rows(begin, begin + count)));
          }
        EXPECT_TRUE(test::same_bits(rows(GemmForm::dots, 3, 68), dots.rows(3, 68)));
      }
    }
}

TEST(GemmContract, BitsDoNotDependOnTheBatch) {
  Batch batch(13);
  const Options o{};
  batch.add({40, 100, 70}, o);
  batch.add({40, 33, 70}, {.exact = true}, true);
  batch.add({40, 200, 70}, o, true);
  batch.add({5, 200, 70}, o);
  for (const Variant<GemmArgs>* v : runnable_variants()) {
    SCOPED_TRACE(v->name);
    const auto together = run(*v, batch);
    std::vector<GemmProblem> alone = batch.fresh();
    for (GemmProblem& p : alone) test::run_plan(Plan<GemmArgs>(*v), GemmArgs{{&p, 1}});
    expect_same_bits(alone, together);
  }
}

// Memory that ends where the process's memory ends: one byte read or written past it is a fault.
class Guarded {
 public:
  explicit Guarded(const ConstTensor& t) : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    const size_t bytes = static_cast<size_t>(t.bytes()), used = (bytes + page_ - 1) / page_ * page_;
    size_ = used + page_;
    void* at = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw OutOfMemory("guarded test memory");
    base_ = static_cast<std::byte*>(at);
    mprotect(base_ + used, page_, PROT_NONE);
    view_ = Tensor(base_ + used - bytes, t.dtype, {t[0], t[1]});
    std::memcpy(view_.data, t.data, bytes);
  }
  ~Guarded() { munmap(base_, size_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  Tensor view() const { return view_; }

 private:
  size_t page_, size_ = 0;
  std::byte* base_ = nullptr;
  Tensor view_;
};

TEST(GemmContract, TouchesNothingBeyondItsTensors) {
  for (DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (const Options& o : {Options{}, Options{.in_out = true}, Options{.x_in_out = true}})
      for (int64_t M : {1, 3, 8, 9, 30})
        for (int64_t N : {1, 13, 50})
          for (int64_t K : {1, 7, 33, 63, 530}) {
            Batch batch(17);
            batch.add({M, N, K}, {.dtype = dtype, .accumulate = true, .in_out = o.in_out, .x_in_out = o.x_in_out});
            const GemmProblem p = batch.problems()[0];
            for (const Variant<GemmArgs>* v : runnable_variants()) {
              const auto want = run(*v, batch);
              const Guarded x(p.x), w(p.w), y(p.y);
              GemmProblem guarded = p;
              guarded.x = x.view(), guarded.w = w.view(), guarded.y = y.view();
              test::run_plan(Plan<GemmArgs>(*v), GemmArgs{{&guarded, 1}});
              EXPECT_TRUE(test::same_bits(guarded.y, want[0].y)) << v->name << " M=" << M << " N=" << N << " K=" << K;
            }
          }
}

TEST(GemmContract, ScratchIsBoundedByRowsAndWidth) {
  for (int n_threads : {1, 2, 16})
    for (int64_t M : {0, 1, 8, 9, 15, 17, 33, 700})
      for (int64_t K : {1, 33, 1000}) {
        // Eight groups of M rows, each against three weights, packed for both paths.
        Batch batch(1);
        for (int group = 0; group < 8; ++group) {
          batch.add({M, 2, K}, {});
          batch.add({M, 1, K}, {.exact = true}, true);
          batch.add({M, 2, K}, {}, true);
        }
        for (const Variant<GemmArgs>& v : gemm_variants())
          EXPECT_LE(v.workspace_bytes(batch.args(), n_threads), gemm_workspace_bytes(8 * M, K, n_threads))
              << v.name << " M=" << M << " K=" << K;
      }
}

TEST(GemmContract, RefusesWhatDoesNotFit) {
  const OwnedTensor x = OwnedTensor::zeros({3, 4}), w = OwnedTensor::zeros({5, 4}, DType::bf16),
                    y = OwnedTensor::zeros({3, 5});
  const OwnedTensor other = OwnedTensor::zeros({4, 4}), whole = OwnedTensor::ints({1, 2, 3, 4});
  const int32_t rows[] = {0, 3, 1};
  const GemmProblem good{.x = x, .w = w, .y = y};
  const auto message = [&](const GemmProblem& bad) -> std::string {
    const GemmProblem problems[] = {good, bad};
    try {
      plan_gemm({problems});
      return "accepted";
    } catch (const InvalidArgument& e) { return e.what(); }
  };
  EXPECT_EQ(message(good), "accepted");
  EXPECT_EQ(message({.x = x, .w = other, .y = y}), "gemm: problem 1: w: expected [5, 4] f32, got [4, 4] f32");
  EXPECT_EQ(message({.x = other, .w = w, .y = y}), "gemm: problem 1: x: expected [3, -1] f32, got [4, 4] f32");
  EXPECT_EQ(message({.x = x, .w = w, .y = y, .w_is_in_out = true}),
            "gemm: problem 1: w: expected [4, 5] bf16, got [5, 4] bf16");
  EXPECT_EQ(message({.x = x, .w = w, .y = y, .rows = rows}),
            "gemm: problem 1: rows[1]: expected a row of x [3, 4] f32, got 3");
  EXPECT_EQ(message({.x = x, .w = w, .y = y, .rows = rows, .x_is_in_out = true}),
            "gemm: problem 1: x_is_in_out: expected neither rows nor w_is_in_out");
  GemmProblem bad = good;
  bad.x.row_stride = 3;
  EXPECT_EQ(message(bad), "gemm: problem 1: x: row stride: expected at least 4, got 3");
  bad = good, bad.w.data = nullptr;
  EXPECT_EQ(message(bad), "gemm: problem 1: w: [5, 4] bf16 has no memory");
  bad = good, bad.w = ConstTensor(whole.view().data, DType::i32, {5, 4});
  EXPECT_EQ(message(bad), "gemm: problem 1: w: expected [5, 4] f32, got [5, 4] i32");
}

}  // namespace
}  // namespace linnet::ops::gemm_test
