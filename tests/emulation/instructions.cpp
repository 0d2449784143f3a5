// Instructions of whole warps, warpgroups and CTAs: the lane that comes last does the work of all.
#include "emulation/instructions.h"

#include <cmath>
#include <cstring>

namespace linnet::emulation {
namespace {

float half_to_float(uint16_t x) {
  const int exponent = x >> 10 & 31, mantissa = x & 1023;
  const float sign = x & 0x8000 ? -1.f : 1.f;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1.f + static_cast<float>(mantissa) / 1024, exponent - 15)
                          : std::ldexp(static_cast<float>(mantissa), -24));
}

const float* half_table() {
  static const std::vector<float> table = [] {
    std::vector<float> t(65536);
    for (size_t i = 0; i < t.size(); i++) t[i] = half_to_float(static_cast<uint16_t>(i));
    return t;
  }();
  return table.data();
}

uint16_t half_of(uint32_t x, int i) { return static_cast<uint16_t>(i ? x >> 16 : x); }

void nothing(Warp&) {}

// A 16-bit matrix of 8 columns 8 n deep as mma takes A's upper or lower rows, or B's columns: of row r, element k.
uint16_t element(const Warp& w, int first_word, int r, int k) {
  return half_of(w.lanes[4 * r + (k & 7) / 2].words[first_word + 2 * (k >> 3)], k & 1);
}

template <int kWords, Type16 kType>
void mma_of_warp(Warp& w) {
  constexpr int kDeep = 8 * kWords;  // words of B; A has twice as many
  const float* const table = half_table();
  const auto value = [&](uint16_t x) { return kType == Type16::f16 ? table[x] : to_float(x, kType); };
  float a[16][kDeep], b[8][kDeep];
  for (int k = 0; k < kDeep; k++) {
    for (int r = 0; r < 16; r++) a[r][k] = value(element(w, r >> 3, r & 7, k));
    for (int c = 0; c < 8; c++) b[c][k] = value(half_of(w.lanes[4 * c + (k & 7) / 2].words[4 + (k >> 3)], k & 1));
  }
  for (int lane = 0; lane < kLanes; lane++) {
    float* const d = static_cast<float*>(w.lanes[lane].results[0]);
    for (int i = 0; i < 4; i++) {
      const int r = lane / 4 + 8 * (i >> 1), c = 2 * (lane & 3) + (i & 1);
      float sum = 0;
      for (int k = 0; k < kDeep; k++) sum += a[r][k] * b[c][k];
      d[i] += sum;
    }
  }
}

// words: [0] address; [1]: matrices, [2]: transposed. results[0]: registers.
void ldmatrix_of_warp(Warp& w) {
  const int n = static_cast<int>(w.lanes[0].words[1]);
  const bool transposed = w.lanes[0].words[2] != 0;
  for (int m = 0; m < n; m++) {
    uint16_t x[8][8];
    for (int r = 0; r < 8; r++)
      std::memcpy(x[r], shared_at(*w.cta, w.lanes[8 * m + r].words[0], 16, 16, "ldmatrix"), 16);
    for (int lane = 0; lane < kLanes; lane++) {
      const int r = lane / 4, c = 2 * (lane & 3);
      static_cast<uint32_t*>(w.lanes[lane].results[0])[m] = transposed
                                                                ? static_cast<uint32_t>(x[c + 1][r]) << 16 | x[c][r]
                                                                : static_cast<uint32_t>(x[r][c + 1]) << 16 | x[r][c];
    }
  }
}

void stmatrix_of_warp(Warp& w) {
  for (int m = 0; m < 4; m++) {
    for (int r = 0; r < 8; r++) {
      uint16_t row[8];  // transposed: row r is column r of the fragment
      for (int c = 0; c < 8; c++) row[c] = half_of(w.lanes[4 * c + r / 2].words[1 + m], r & 1);
      std::memcpy(shared_at(*w.cta, w.lanes[8 * m + r].words[0], 16, 16, "stmatrix"), row, 16);
    }
  }
}

// words: [0] value, [1] source; results[0]: answer.
void shuffle_of_warp(Warp& w) {
  for (int lane = 0; lane < kLanes; lane++) {
    if (w.done[lane]) continue;
    const auto from = w.lanes[lane].words[1];
    if (w.done[from]) fail("a shuffle from lane %u, which has ended", from);
    *static_cast<uint32_t*>(w.lanes[lane].results[0]) = w.lanes[from].words[0];
  }
}

void ballot_of_warp(Warp& w) {
  uint32_t all = 0;
  for (int lane = 0; lane < kLanes; lane++)
    if (!w.done[lane]) all |= w.lanes[lane].words[0] << lane;
  for (int lane = 0; lane < kLanes; lane++)
    if (!w.done[lane]) *static_cast<uint32_t*>(w.lanes[lane].results[0]) = all;
}

uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

// Eight neighbours of the right operand: from (k, column) on, along columns where it is transposed, else along k.
const char* right_piece(Cta& cta, const Product& p, int k, int column) {
  const uint32_t start = (p.right & 0x3fff) << 4, leading = (p.right >> 16 & 0x3fff) << 4;
  const uint32_t at = p.transposed
                          ? start + (column >> 6) * leading + (k >> 3) * 1024 + (k & 7) * 128 + 2 * (column & 63)
                          : start + (column >> 3) * 1024 + (column & 7) * 128 + 2 * k;
  return shared_at(cta, swizzled(at), 16, 16, "an operand of wgmma");
}

// words: [0] operand, [1] columns, [2] transposed, accumulate, sign; [4..7] A. results[0]: accumulator.
void product_of_warp(Warp& w) {
  if (!w.fenced) fail("a product after a wait for products without wgmma_fence between");
  const Lane& first = w.lanes[0];
  Product p;
  p.accumulator = first.results[0];
  p.right = first.words[0];
  p.n_columns = static_cast<int>(first.words[1]);
  p.transposed = first.words[2] & 1;
  p.accumulate = first.words[2] & 2;
  p.sign = first.words[2] & 4 ? -1 : 1;
  const float* const table = half_table();
  for (int r = 0; r < 16; r++)
    for (int k = 0; k < 16; k++) p.left[r][k] = table[element(w, 4 + (r >> 3), r & 7, k)];
  for (int lane = 1; lane < kLanes; lane++)
    for (int i = 0; i < 3; i++)
      if (w.lanes[lane].words[i] != first.words[i]) fail("lanes 0 and %d give different operands to a product", lane);
  w.product_log.push_back(p.right);
  Accumulator* a = nullptr;
  for (auto& x : w.accumulators) a = x.of[0] == p.accumulator ? &x : a;
  if (!a) {
    a = &w.accumulators.emplace_back();
    a->n_columns = p.n_columns;
    a->n_products = 0;
    a->x.resize(16 * static_cast<size_t>(p.n_columns));
    for (int lane = 0; lane < kLanes; lane++) {
      a->of[lane] = w.lanes[lane].results[0];
      auto* const d = static_cast<float*>(a->of[lane]);
      for (int i = 0; i < p.n_columns / 2; i++)
        a->x[(lane / 4 + 8 * (i >> 1 & 1)) * p.n_columns + 8 * (i >> 2) + 2 * (lane & 3) + (i & 1)] = d[i];
      std::memset(d, 0xff, p.n_columns / 2 * sizeof(float));  // until it is waited for
    }
  }
  if (a->n_columns != p.n_columns) fail("products of %d and %d columns in one accumulator", a->n_columns, p.n_columns);
  a->n_products++;
  w.products.push_back(p);
}

void complete(Warp& w, const Product& p) {
  size_t at = 0;
  while (w.accumulators[at].of[0] != p.accumulator) at++;
  Accumulator& a = w.accumulators[at];
  const float* const table = half_table();
  const int n = p.n_columns;
  float right[16][128];
  uint16_t x[8];
  for (int k = 0; k < 16; k += p.transposed ? 1 : 8)
    for (int c = 0; c < n; c += p.transposed ? 8 : 1) {
      std::memcpy(x, right_piece(*w.cta, p, k, c), 16);
      for (int i = 0; i < 8; i++) (p.transposed ? right[k][c + i] : right[k + i][c]) = table[x[i]];
    }
  for (int r = 0; r < 16; r++) {
    float* const d = &a.x[static_cast<size_t>(r) * n];
    float sum[128] = {};
    for (int k = 0; k < 16; k++)
      for (int c = 0; c < n; c++) sum[c] += p.left[r][k] * right[k][c];
    for (int c = 0; c < n; c++) d[c] = (p.accumulate ? d[c] : 0.f) + static_cast<float>(p.sign) * sum[c];
  }
  if (--a.n_products) return;
  for (int lane = 0; lane < kLanes; lane++) {
    auto* const d = static_cast<float*>(a.of[lane]);
    for (int i = 0; i < n / 2; i++)
      d[i] = a.x[(lane / 4 + 8 * (i >> 1 & 1)) * n + 8 * (i >> 2) + 2 * (lane & 3) + (i & 1)];
  }
  w.accumulators.erase(w.accumulators.begin() + static_cast<ptrdiff_t>(at));
}

void fence_of_warp(Warp& w) { w.fenced = true; }
void commit_of_warp(Warp& w) { w.product_groups.push_back(w.products.size()); }
void wait_of_warp(Warp& w) {
  const size_t n_pending = w.lanes[0].words[0];
  if (w.product_groups.size() <= n_pending) return;
  const size_t n_groups = w.product_groups.size() - n_pending, n = w.product_groups[n_groups - 1];
  for (size_t i = 0; i < n; i++) complete(w, w.products[i]);
  w.products.erase(w.products.begin(), w.products.begin() + static_cast<ptrdiff_t>(n));
  w.product_groups.erase(w.product_groups.begin(), w.product_groups.begin() + static_cast<ptrdiff_t>(n_groups));
  for (size_t& end : w.product_groups) end -= n;
  w.fenced = false;
}

void sync_barrier(int barrier, int n_expected, bool of_all) {
  if (barrier < 0 || barrier >= kNamedBarriers || n_expected <= 0 || (!of_all && n_expected % kLanes))
    fail("barrier %d of %d threads", barrier, n_expected);
  NamedBarrier& b = me->cta->barriers[barrier];
  if (b.n_arrived && (b.of_all != of_all || (!of_all && b.n_expected != n_expected)))
    fail("barrier %d is waited for by %d and by %d threads", barrier, b.n_expected, n_expected);
  b.of_all = of_all;
  b.n_expected = n_expected;
  const uint64_t generation = b.generation;
  if (++b.n_arrived == n_expected) {
    b.n_arrived = 0;
    b.generation++;
    progress++;
    return;
  }
  wait_for(&b.generation, ~0ull, generation, "barrier", static_cast<uint32_t>(barrier));
}

}  // namespace

float to_float(uint16_t x, Type16 type) {
  if (type == Type16::f16) return half_table()[x];
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

void sync_warp() { meet("__syncwarp", nothing); }

uint32_t shuffle(uint32_t x, int from) {
  uint32_t answer = 0;
  Lane& l = my_lane();
  l.words[0] = x;
  l.words[1] = static_cast<uint32_t>(from);
  l.results[0] = &answer;
  meet("a shuffle", shuffle_of_warp);
  return answer;
}

uint32_t ballot(bool x) {
  uint32_t answer = 0;
  Lane& l = my_lane();
  l.words[0] = x;
  l.results[0] = &answer;
  meet("a ballot", ballot_of_warp);
  return answer;
}

void mma(float* d, const uint32_t* a, const uint32_t* b, int n, Type16 type) {
  Lane& l = my_lane();
  std::memcpy(l.words, a, 2 * static_cast<size_t>(n) * sizeof *a);
  std::memcpy(l.words + 4, b, static_cast<size_t>(n) * sizeof *b);
  l.results[0] = d;
  meet("mma", n == 2                ? type == Type16::f16 ? mma_of_warp<2, Type16::f16> : mma_of_warp<2, Type16::bf16>
                             : type == Type16::f16 ? mma_of_warp<1, Type16::f16>
                                    : mma_of_warp<1, Type16::bf16>);
}

void ldmatrix(uint32_t* r, int n, bool transposed, uint32_t address) {
  Lane& l = my_lane();
  l.words[0] = address;
  l.words[1] = static_cast<uint32_t>(n);
  l.words[2] = transposed;
  l.results[0] = r;
  meet("ldmatrix", ldmatrix_of_warp);
}

void stmatrix_transposed(uint32_t address, const uint32_t (&x)[4]) {
  Lane& l = my_lane();
  l.words[0] = address;
  std::memcpy(l.words + 1, x, sizeof x);
  meet("stmatrix", stmatrix_of_warp);
}

void sync_cta() { sync_barrier(0, me->cta->n_live, true); }
void sync_threads(int barrier, int n_threads) { sync_barrier(barrier, n_threads, false); }

void wgmma_fence() { meet("wgmma_fence", fence_of_warp); }

void wgmma(float* d, int n_columns, const uint32_t* a, uint32_t b, bool transposed, bool accumulate, int sign) {
  Lane& l = my_lane();
  l.words[0] = b;
  l.words[1] = static_cast<uint32_t>(n_columns);
  l.words[2] = static_cast<uint32_t>(transposed) | static_cast<uint32_t>(accumulate) << 1 | (sign < 0 ? 4u : 0u);
  std::memcpy(l.words + 4, a, 16);
  l.results[0] = d;
  meet("wgmma", product_of_warp);
}

void wgmma_commit() { meet("wgmma_commit", commit_of_warp); }

void wgmma_wait(int n_pending) {
  my_lane().words[0] = static_cast<uint32_t>(n_pending);
  meet("wgmma_wait", wait_of_warp);
}

void end_products(Warp& w) {
  if (!w.products.empty()) fail("a warp has ended with %zu products in flight", w.products.size());
}

void wait_for_dependency() {
  if (const Grid* const g = me->cta->grid->previous) wait_for(&g->ended, ~0ull, 0, "griddepcontrol.wait");
}

}  // namespace linnet::emulation
