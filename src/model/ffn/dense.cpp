#include "model/ffn/dense.h"

#include "ops/activation/activation.h"
#include "ops/gemm/gemm.h"

namespace linnet::model {

void DenseFfn::tensors(TensorTable& table, const std::string& prefix) {
  // transformers 5.17 writes the dense layer under the name of the sparse ones.
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, ConstTensor& slot, int shard_axis) {
    TensorRow& row = table.add_matrix(prefix + "mlp." + name, std::move(shape), slot);
    row.other_name = prefix + "block_sparse_moe." + name;
    row.shard_axis = shard_axis;
  };
  add("gate_proj.weight", {width_, hidden_}, gate_, 0);
  add("up_proj.weight", {width_, hidden_}, up_, 0);
  add("down_proj.weight", {hidden_, width_}, down_, 1);
}

void DenseFfn::forward(ConstTensor x, Tensor y, const Exec& exec) const {
  const Workspace::Scope scope(exec.workspace);
  const Tensor gate = exec.workspace.tensor<float>({x[0], width_}), up = exec.workspace.tensor<float>({x[0], width_});
  const ops::GemmProblem in[] = {{.x = x, .w = gate_, .y = gate}, {.x = x, .w = up_, .y = up}};
  apply("dense", ops::plan_gemm, {in}, exec);
  apply("dense", ops::plan_swiglu, {.gate = gate, .up = up, .y = gate}, exec);
  const ops::GemmProblem out[] = {{.x = gate, .w = down_, .y = y}};
  apply("dense", ops::plan_gemm, {out}, exec);
}

}  // namespace linnet::model
