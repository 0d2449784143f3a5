// Times the Hopper KDA decode kernel against its floor: compulsory bytes over the copy bandwidth measured in the same run.
#include "ops/linear_attn/linear_attn_sm90_decode_pools.cuh"

namespace linnet::ops::sm90_check {

void bench_decode(int argc, char** argv) {
  const double bandwidth = begin_bench(argc, argv);
  for (const int B : {1, 4, 8, 16, 32, 64, 128, 256}) {
    const Pools p(B);
    for (const bool settled : {true, false}) bench_step(p, bandwidth, settled);
  }
  for (const int B : {1, 8, 32, 256})
    for (const auto& [D, type] :
         {std::pair{128, KdaStateType::bf16}, {64, KdaStateType::f32}, {64, KdaStateType::bf16}})
      bench_step(Pools(B, D, type), bandwidth);
}

}  // namespace linnet::ops::sm90_check
