// The plain residual stream: every sublayer reads the running sum of everything before it and adds its output.
// A residual policy owns the stream and offers these verbs; blocks use nothing else.
#pragma once

#include "core/exec.h"
#include "ops/activation/activation.h"

namespace linnet::model {

class PlainResidual {
 public:
  PlainResidual(Tensor stream, const Exec& exec) : stream_(stream), exec_(exec) {}  // stream [N, C] f32: the embedding
  ConstTensor read() const { return stream_; }
  void write(ConstTensor x) { apply("residual", ops::plan_add, {.x = x, .y = stream_}, exec_); }

 private:
  Tensor stream_;
  const Exec& exec_;
};

}  // namespace linnet::model
