// The DeviceRuntime of NVIDIA GPUs. The CUDA runtime is linked statically, and the driver is looked
// up at the first call, so the library loads on a machine without one.
//
// Memory: CUDA's virtual memory management with POSIX file descriptors. A device that lacks it gets
// cudaMalloc, and its shared descriptor is a memfd that holds the IPC handle.
// Threading: any thread.
#pragma once

#include <string>

#include "device/runtime.h"

namespace fastgpu {

struct FoundRuntime {
  DeviceRuntime* runtime = nullptr;  // lives as long as the process
  std::string why_not;               // why there is none, and what to do
};

// Looks once in a process; later calls return the same.
const FoundRuntime& find_cuda_runtime() noexcept;

}  // namespace fastgpu
