#include "torch/backend/devices.h"

#include <ATen/ops/from_blob.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <new>

#include "base/log.h"
#include "comm/runtime.h"
#include "engine/device/host_driven/executor.h"

namespace fastgpu {
namespace {

std::atomic<c10::DeviceType> type_of_devices{c10::DeviceType::CUDA};

StreamHandle handle_of(const c10::impl::VirtualGuardImpl& guard, const c10::Stream& stream) {
  return {guard.getStreamNativeHandle(stream), stream.device_index()};
}

// A GPU's heap whose freed memory is reused only when the stream that was current then, or that the
// caller names, has done its work.
class StreamOrderedHeap {
 public:
  // The heaps live as long as the process, because tensors may.
  static StreamOrderedHeap& of(int device) {
    static std::mutex mutex;
    static std::map<int, StreamOrderedHeap*> heaps;
    const std::lock_guard lock(mutex);
    auto& heap = heaps[device];
    if (heap == nullptr) heap = new StreamOrderedHeap(device);
    return *heap;
  }

  std::byte* allocate(std::size_t size_bytes) {
    waits_.run_due();  // frees what can be freed by now
    return heap_.allocate(size_bytes);
  }
  void free(std::byte* memory, c10::Device device) noexcept {
    try {
      free(memory, current_stream(device));
    } catch (const std::exception& error) {
      log(LogLevel::kError, "device_failed", "message=" + in_quotes(error.what()));
    }
  }
  // Memory that is dropped in a captured stream stays used: replays use it.
  void free(std::byte* memory, StreamHandle stream) noexcept {
    try {
      if (Runtime::shared().devices().is_captured(stream)) return;
      waits_.start_after(stream);
      waits_.when_passed([this, memory] { heap_.free(memory); });
    } catch (const std::exception& error) {  // the memory stays used, because work may use it
      log(LogLevel::kError, "device_failed", "message=" + in_quotes(error.what()));
    }
  }

 private:
  explicit StreamOrderedHeap(int device)
      : heap_(Runtime::shared().device_heap(device)), waits_(Runtime::shared().devices(), device) {}

  DeviceHeap& heap_;
  DeviceExecutor waits_;  // its stream does nothing but wait for others
};

}  // namespace

c10::DeviceType device_type() { return type_of_devices.load(std::memory_order_relaxed); }

bool has_devices() {
  try {
    return Runtime::shared().devices().device_count() > 0;
  } catch (const CommError&) {
    return false;
  }
}

StreamHandle current_stream(c10::Device device) {
  const c10::impl::VirtualGuardImpl guard(device.type());
  return handle_of(guard, guard.getStream(device));
}

void with_own_stream(c10::Device device, const std::function<void(StreamHandle stream)>& body) {
  const c10::impl::VirtualGuardImpl guard(device.type());
  const c10::Stream own = guard.getStreamFromGlobalPool(device, false);
  const c10::Stream before = guard.exchangeStream(own);
  try {
    body(handle_of(guard, own));
  } catch (...) {
    guard.exchangeStream(before);
    throw;
  }
  guard.exchangeStream(before);
}

void use_devices(DeviceRuntime& runtime, const device::LaneKernels& kernels, c10::DeviceType type) {
  Runtime::shared().set_devices(&runtime, kernels);
  type_of_devices.store(type);
}

at::Tensor device_tensor(const std::vector<int64_t>& sizes, at::ScalarType dtype,
                         c10::Device device) {
  std::size_t size_bytes = c10::elementSize(dtype);
  for (const int64_t size : sizes) {
    if (__builtin_mul_overflow(size_bytes, size, &size_bytes)) throw std::bad_alloc();
  }
  StreamOrderedHeap& heap = StreamOrderedHeap::of(device.index());
  std::byte* memory = heap.allocate(std::max<std::size_t>(size_bytes, 1));
  return at::from_blob(
      memory, sizes,
      [&heap, device](void* freed) { heap.free(static_cast<std::byte*>(freed), device); },
      at::TensorOptions().dtype(dtype).device(device), device);
}

}  // namespace fastgpu

// For torch's CUDAPluggableAllocator, which finds them by name (fastgpu_comm.mem_pool).
extern "C" {
__attribute__((visibility("default"))) void* fastgpu_device_allocate(std::size_t size_bytes,
                                                                     int device, void* /*stream*/) {
  try {
    return fastgpu::StreamOrderedHeap::of(device).allocate(size_bytes);
  } catch (const std::exception& error) {  // nullptr tells torch that there is no memory
    fastgpu::log(fastgpu::LogLevel::kWarn, "device_allocation_failed",
                 "message=" + fastgpu::in_quotes(error.what()));
    return nullptr;
  }
}
__attribute__((visibility("default"))) void fastgpu_device_free(void* memory,
                                                                std::size_t /*size_bytes*/,
                                                                int device, void* stream) {
  fastgpu::StreamOrderedHeap::of(device).free(static_cast<std::byte*>(memory),
                                              fastgpu::StreamHandle{stream, device});
}
}
