#include "model/ffn/dense.h"

#include "model/part_support.h"
#include "ops/activation/activation_bwd.h"

namespace linnet::model {

void DenseFfn::tensors(TensorTable& table, const std::string& prefix) {
  // transformers 5.17 writes the dense layer under the name of the sparse ones.
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, MatrixParameter& slot, int shard_axis) {
    TensorRow& row = table.add_matrix(prefix + "mlp." + name, std::move(shape), slot);
    row.other_name = prefix + "block_sparse_moe." + name;
    row.shard_axis = shard_axis;
  };
  add("gate_proj.weight", {width_, hidden_}, gate_, 0);
  add("up_proj.weight", {width_, hidden_}, up_, 0);
  add("down_proj.weight", {hidden_, width_}, down_, 1);
}

void DenseFfn::forward(Step step, ConstTensor x, Tensor y, const Exec& exec, Tape* tape) const {
  const Workspace::Scope scope(exec.workspace);
  Workspace& memory = kept_in(tape, exec.workspace);
  Activations a;
  a.gate = memory.tensor<float>({x[0], width_}), a.up = memory.tensor<float>({x[0], width_});
  a.product = tape ? memory.tensor<float>({x[0], width_}) : a.gate;
  if (tape) tape->push(a);
  const ops::GemmProblem in[] = {{.x = x, .w = gate_, .y = a.gate}, {.x = x, .w = up_, .y = a.up}};
  apply("dense", ops::plan_gemm, {in, gemm_form(step)}, exec);
  apply("dense", ops::plan_swiglu, {.gate = a.gate, .up = a.up, .y = a.product}, exec);
  const ops::GemmProblem out[] = {{.x = a.product, .w = down_, .y = y}};
  apply("dense", ops::plan_gemm, {out, gemm_form(step)}, exec);
}

void DenseFfn::backward(ConstTensor x, ConstTensor dy, Tensor dx, const Exec& exec, Tape& tape) const {
  const Activations& a = tape.pop<Activations>();
  const Workspace::Scope scope(exec.workspace);
  const Tensor dgate = exec.workspace.tensor<float>({x[0], width_}), dup = exec.workspace.tensor<float>({x[0], width_});
  const ops::GemmBwdProblem out[] = {gradient(a.product, down_, dy, dgate)};
  apply("dense bwd", ops::plan_gemm_bwd, {out}, exec);
  apply("dense bwd", ops::plan_swiglu_bwd, {.gate = a.gate, .up = a.up, .dy = dgate, .dgate = dgate, .dup = dup}, exec);
  const ops::GemmBwdProblem in[] = {gradient(x, gate_, dgate, dx), gradient(x, up_, dup, dx, kAdd)};
  apply("dense bwd", ops::plan_gemm_bwd, {in}, exec);
}

}  // namespace linnet::model
