// The GPUs whose tensors the backend takes, as torch sees them. Everything goes through torch's
// interface for devices of any type, so that one build serves builds of torch with and without
// CUDA, and tests use a device of their own.
// Thread safety: all calls, any thread.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "device/runtime.h"
#include "engine/device/lane_code.h"

namespace fastgpu {

// The type of the GPUs: CUDA, unless use_devices() was called.
c10::DeviceType device_type();
inline bool is_on_device(const at::Tensor& tensor) {
  return tensor.device().type() == device_type();
}

// Whether GPUs can be used in this process. Looks for them at the first call.
bool has_devices();

// The calling thread's current stream of the device.
StreamHandle current_stream(c10::Device device);
// Calls `body` with a stream of torch's pool as the current one.
void with_own_stream(c10::Device device, const std::function<void(StreamHandle stream)>& body);

// For tests, before the first tensor: takes tensors of `type`, whose memory and streams are those
// of `runtime`, which launches `kernels`.
void use_devices(DeviceRuntime& runtime, const device::LaneKernels& kernels, c10::DeviceType type);

// An uninitialised tensor in memory that the ranks of this host map. The memory is freed once the
// stream that is current when its storage is freed, and all calls of the library, have used it.
// Raises OutOfResourcesError, InvalidArgumentError if there is no such GPU, or std::bad_alloc.
at::Tensor device_tensor(const std::vector<int64_t>& sizes, at::ScalarType dtype,
                         c10::Device device);

}  // namespace fastgpu
