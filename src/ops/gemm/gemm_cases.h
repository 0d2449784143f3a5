// For the tests of the op: batches that own their memory, with everything between the numbers set to NaN, and the
// oracles.
#pragma once

#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <vector>

#include "ops/gemm/gemm.h"
#include "support/compare.h"
#include "support/owned_tensor.h"

namespace linnet::ops::gemm_test {

using test::OwnedTensor;

struct Shape {
  int64_t M, N, K;
};

struct Options {
  DType dtype = DType::bf16;
  bool gather = false;  // rows of x in a scrambled order, some repeated
  bool accumulate = false, exact = false, in_out = false, x_in_out = false;
  int64_t pad = 0;  // row stride minus width of x, w and y; the gaps of x and w hold NaN, those of y kGap
};

constexpr float kGap = 12345;

// [rows, width] inside [rows, width + pad].
template <class T>
T without_gap(T wide, int64_t pad) {
  wide.shape[1] -= pad;
  return wide;
}

inline OwnedTensor random_with_gap(int64_t rows, int64_t width, int64_t pad, uint64_t seed, DType dtype = DType::f32) {
  const Rng rng(seed);
  return OwnedTensor::filled(
      {rows, width + pad},
      [&](int64_t i) {
        const bool gap = i % (width + pad) >= width;
        return gap ? std::numeric_limits<double>::quiet_NaN() : rng.normal(static_cast<uint64_t>(i));
      },
      dtype);
}

class Batch {
 public:
  explicit Batch(uint64_t seed) : seed_(seed) {}

  // A product with an x of its own; with same_x, of the x and rows of the product before (equal M and K).
  GemmProblem& add(const Shape& s, const Options& o, bool same_x = false) {
    GemmProblem p{.w_is_in_out = o.in_out, .x_is_in_out = o.x_in_out, .accumulate = o.accumulate, .exact = o.exact};
    if (same_x) {
      p.x = problems_.back().x, p.rows = problems_.back().rows;
    } else {
      const int64_t rows = o.gather ? s.M + 3 : s.M;
      const OwnedTensor x =
          o.x_in_out ? random_with_gap(s.K, rows, o.pad, ++seed_) : random_with_gap(rows, s.K, o.pad, ++seed_);
      p.x = without_gap<ConstTensor>(own(x), o.pad);
      if (o.gather) {
        std::vector<int32_t> order;
        for (int64_t m = 0; m < s.M; ++m) order.push_back(static_cast<int32_t>((m * 7 + 2) % rows));
        p.rows = own(OwnedTensor::ints(order)).as<int32_t>();
      }
    }
    const int64_t w_rows = o.in_out ? s.K : s.N, w_width = o.in_out ? s.N : s.K;
    p.w = without_gap<ConstTensor>(own(random_with_gap(w_rows, w_width, o.pad, ++seed_, o.dtype)), o.pad);
    const Rng rng(++seed_);
    p.y = without_gap<Tensor>(own(OwnedTensor::filled({s.M, s.N + o.pad},
                                                      [&](int64_t i) {
                                                        const bool gap = i % (s.N + o.pad) >= s.N;
                                                        return gap ? kGap : rng.normal(static_cast<uint64_t>(i));
                                                      })),
                              o.pad);
    problems_.push_back(p);
    return problems_.back();
  }

  GemmArgs args() const { return {problems_}; }
  const std::vector<GemmProblem>& problems() const { return problems_; }

  // The same products into fresh copies of every y.
  std::vector<GemmProblem> fresh() {
    std::vector<GemmProblem> copies = problems_;
    for (GemmProblem& p : copies) {
      const Tensor y = own(OwnedTensor(DType::f32, {p.y[0], p.y.row_stride}));
      std::memcpy(y.data, p.y.data, static_cast<size_t>(p.y[0] * p.y.row_stride) * sizeof(float));
      p.y.data = y.data;
    }
    return copies;
  }

  Tensor own(OwnedTensor t) { return owned_.emplace_back(std::move(t)); }

 private:
  uint64_t seed_;
  std::deque<OwnedTensor> owned_;
  std::vector<GemmProblem> problems_;
};

inline std::vector<const Variant<GemmArgs>*> runnable_variants() {
  std::vector<const Variant<GemmArgs>*> variants;
  for (const Variant<GemmArgs>& v : gemm_variants())
    if (v.needs <= active_isa()) variants.push_back(&v);
  return variants;
}

// The products as `variant` computes them, in fresh memory.
inline std::vector<GemmProblem> run(const Variant<GemmArgs>& variant, Batch& batch, int n_threads = 2) {
  std::vector<GemmProblem> problems = batch.fresh();
  test::run_plan(Plan<GemmArgs>(variant), GemmArgs{problems}, n_threads);
  return problems;
}

// Whether the contract lets the variant round this product's x to bf16.
inline bool rounds_x(const Variant<GemmArgs>& variant, const GemmProblem& p) {
  const bool tiles = p.y[0] > kGemvRows || p.x_is_in_out;
  return variant.needs >= Isa::avx512_bf16 && p.w.dtype == DType::bf16 && !p.exact && !p.w_is_in_out &&
         (tiles || variant.needs == Isa::avx512_bf16);
}

// The definition's answers, with x rounded to bf16 first where rounded(problem).
template <class Rounded>
std::vector<GemmProblem> reference(Batch& batch, const Rounded& rounded) {
  std::vector<GemmProblem> problems = batch.fresh();
  for (GemmProblem& p : problems) {
    if (!rounded(p)) continue;
    const OwnedTensor x(DType::f32, {p.x[0], p.x[1]});
    for (int64_t m = 0; m < p.x[0]; ++m)
      for (int64_t k = 0; k < p.x[1]; ++k) x.f32()[m * p.x[1] + k] = to_f32(to_bf16(p.x.row<float>(m)[k]));
    p.x = batch.own(x);
  }
  gemm_ref({problems});
  return problems;
}

}  // namespace linnet::ops::gemm_test
