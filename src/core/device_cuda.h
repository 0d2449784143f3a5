// The CUDA side of device_abi.h: the table of the module, with the operators that src/ops/module_cuda.cu lists.
#pragma once

#include <span>

#include "core/device_abi.h"

namespace linnet {

// The operators must live as long as the module.
LinnetDeviceModule cuda_device_module(std::span<const LinnetDeviceOperator> operators) noexcept;

}  // namespace linnet
