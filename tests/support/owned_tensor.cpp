#include "support/owned_tensor.h"

namespace linnet::test {

OwnedTensor OwnedTensor::filled(std::initializer_list<int64_t> dims, const std::function<double(int64_t)>& value,
                                DType dtype) {
  OwnedTensor t(dtype, dims);
  const Tensor view = t.view();
  for (int64_t i = 0; i < view.elements(); ++i) {
    const float x = static_cast<float>(value(i));
    switch (dtype) {
      case DType::f32: view.as<float>()[i] = x; break;
      case DType::bf16: view.as<bf16>()[i] = to_bf16(x); break;
      case DType::f16: view.as<f16>()[i] = to_f16(x); break;
      case DType::i32: view.as<int32_t>()[i] = static_cast<int32_t>(x); break;
      case DType::i64: view.as<int64_t>()[i] = static_cast<int64_t>(x); break;
      case DType::u8: view.as<uint8_t>()[i] = static_cast<uint8_t>(x); break;
    }
  }
  return t;
}

OwnedTensor OwnedTensor::normal(std::initializer_list<int64_t> dims, uint64_t seed, double stddev, double mean,
                                DType dtype) {
  const Rng rng(seed);
  return filled(
      dims, [&](int64_t i) { return mean + stddev * rng.normal(static_cast<uint64_t>(i)); }, dtype);
}

OwnedTensor OwnedTensor::uniform(std::initializer_list<int64_t> dims, uint64_t seed, double low, double high) {
  const Rng rng(seed);
  return filled(dims, [&](int64_t i) { return low + (high - low) * rng.uniform(static_cast<uint64_t>(i)); });
}

OwnedTensor OwnedTensor::ints(const std::vector<int32_t>& values) {
  return filled(
      {static_cast<int64_t>(values.size())}, [&](int64_t i) { return values[static_cast<size_t>(i)]; }, DType::i32);
}

}  // namespace linnet::test
