// Takes the place of CUDA in a build without it.
#include "device/cuda_runtime.h"

namespace fastgpu {

const FoundRuntime& find_cuda_runtime() noexcept {
  static const FoundRuntime kNone{
      .runtime = nullptr,
      .why_not =
          "this build of fastgpu_comm has no device code; build it with nvcc on PATH and "
          "FASTGPU_CUDA=ON, or with a CUDA build of torch"};
  return kNone;
}

}  // namespace fastgpu
