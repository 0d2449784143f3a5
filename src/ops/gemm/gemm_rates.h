// What this machine can do, measured: the floors that benchmarks and `linnet bench` hold the products against.
#pragma once

#include "core/dtype.h"
#include "core/thread_pool.h"

namespace linnet::ops {

// Bytes per second that the pool's threads read together from memory: best of several passes over 256 MiB or more,
// several ascending streams a thread.
double measure_read_bandwidth(ThreadPool& pool);

// FLOP per second (a multiply-add counts two) of plan_gemm on a shape that suits it, M = N = K = 2048, with weights of
// this dtype: best of several runs. Throws InvalidArgument unless it is f32, bf16 or f16.
double measure_gemm_rate(ThreadPool& pool, DType weights);

}  // namespace linnet::ops
