// Tensors that own their memory, filled for tests, and an Exec to run ops with.
#pragma once

#include <cstring>
#include <functional>
#include <vector>

#include "core/exec.h"
#include "core/rng.h"
#include "core/tensor.h"

namespace linnet::test {

class OwnedTensor {
 public:
  OwnedTensor() = default;
  OwnedTensor(DType dtype, std::initializer_list<int64_t> dims) : view_(nullptr, dtype, dims) {
    memory_.resize(static_cast<size_t>(view_.bytes()) + 1);  // + 1: a tensor without elements still has an address
  }

  // N(mean, stddev^2), a pure function of the seed; rounded to the dtype (f32, bf16 or f16).
  static OwnedTensor normal(std::initializer_list<int64_t> dims, uint64_t seed, double stddev = 1, double mean = 0,
                            DType dtype = DType::f32);
  static OwnedTensor uniform(std::initializer_list<int64_t> dims, uint64_t seed, double low, double high);
  static OwnedTensor zeros(std::initializer_list<int64_t> dims, DType dtype = DType::f32) { return {dtype, dims}; }
  static OwnedTensor ints(const std::vector<int32_t>& values);  // [n] i32
  // Any value by flat index.
  static OwnedTensor filled(std::initializer_list<int64_t> dims, const std::function<double(int64_t)>& value,
                            DType dtype = DType::f32);

  Tensor view() const {
    Tensor t = view_;
    t.data = const_cast<std::byte*>(memory_.data());
    return t;
  }
  operator Tensor() const { return view(); }
  operator ConstTensor() const { return view(); }
  float* f32() const { return view().as<float>(); }
  int32_t* i32() const { return view().as<int32_t>(); }

 private:
  Tensor view_;
  std::vector<std::byte> memory_;
};

// Runs a plan with as many threads as asked and exactly the scratch it asked for, every byte of it 0xff: a float of scratch is NaN
// until it is written.
template <class Plan, class Args>
void run_plan(const Plan& plan, const Args& args, int n_threads = 2) {
  ThreadPool pool(n_threads);
  const size_t bytes = plan.workspace_bytes(args, n_threads);
  Workspace workspace(bytes + 1);
  {
    const Workspace::Scope scope(workspace);
    const size_t whole_lines = bytes / kAlignment * kAlignment;
    std::memset(workspace.take<std::byte>(static_cast<int64_t>(whole_lines)), 0xff, whole_lines);
  }
  plan.run(args, Exec{pool, workspace});
}

}  // namespace linnet::test
