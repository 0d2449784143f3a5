// Smoothed: a value as it was of late.
#pragma once

namespace linnet::runtime {

class Smoothed {
 public:
  void add(double value) { mean_ = mean_ == 0 ? value : mean_ + (value - mean_) / 8; }
  double value() const { return mean_; }  // 0: not yet known

 private:
  double mean_ = 0;
};

}  // namespace linnet::runtime
