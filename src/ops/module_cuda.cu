// The CUDA module: the one symbol that it exports, and the list of its operators. A new operator is a row here.
#include "core/device_cuda.h"
#include "ops/linear_attn/linear_attn_sm90.h"
#include "ops/linear_attn/linear_attn_sm90_recurrent.h"
#include "ops/norm/norm_sm90.h"
#include "ops/short_conv/short_conv_sm90.h"

namespace linnet::ops {
namespace {

// A row of an operator `int run(const Args&, void* workspace, CUstream_st*)` with its need of workspace, or of one without
// workspace, `int run(const Args&, CUstream_st*)`.
template <auto kRun, auto kWorkspaceBytes, class Args>
constexpr LinnetDeviceOperator row(const char* name, int (*)(const Args&, void*, CUstream_st*) noexcept) {
  return {
      .name = name,
      .args_bytes = sizeof(Args),
      .workspace_bytes = [](const void* args) -> uint64_t { return kWorkspaceBytes(*static_cast<const Args*>(args)); },
      .enqueue = [](const void* args, void* workspace, void* stream) -> int32_t {
        return kRun(*static_cast<const Args*>(args), workspace, static_cast<CUstream_st*>(stream));
      }};
}
template <auto kRun, class Args>
constexpr LinnetDeviceOperator row(const char* name, int (*)(const Args&, CUstream_st*) noexcept) {
  return {.name = name,
          .args_bytes = sizeof(Args),
          .workspace_bytes = [](const void*) -> uint64_t { return 0; },
          .enqueue = [](const void* args, void*, void* stream) -> int32_t {
            return kRun(*static_cast<const Args*>(args), static_cast<CUstream_st*>(stream));
          }};
}
#define LINNET_OPERATOR(run, ...) row<run __VA_OPT__(, ) __VA_ARGS__>(#run, run)

constexpr LinnetDeviceOperator kOperators[] = {
    LINNET_OPERATOR(kda_prefill_sm90, kda_prefill_sm90_workspace_bytes),
    LINNET_OPERATOR(kda_decode_sm90),
    LINNET_OPERATOR(kda_verify_sm90),
    LINNET_OPERATOR(kda_commit_sm90),
    LINNET_OPERATOR(kda_recurrent_sm90),
    LINNET_OPERATOR(short_conv_sm90),
    LINNET_OPERATOR(rms_norm_sm90),
    LINNET_OPERATOR(gated_norm_sm90),
};

}  // namespace
}  // namespace linnet::ops

extern "C" __attribute__((visibility("default"))) const LinnetDeviceModule* linnet_device_module() {
  static const LinnetDeviceModule table = linnet::cuda_device_module(linnet::ops::kOperators);
  return &table;
}
