#include "base/error.h"
#include "device/cuda_driver.h"

namespace fastgpu {
namespace {

constexpr const char* kOurMistake = "; this is a mistake in fastgpu_comm, please report it";
constexpr const char* kOutOfMemory =
    "; free memory of the GPU (torch.cuda.empty_cache() returns what torch keeps), or use less";
constexpr const char* kWorkFailed =
    "; work of the GPU failed, maybe before this call and outside fastgpu_comm: run with "
    "CUDA_LAUNCH_BLOCKING=1 to see which, and restart the process, which cannot use the GPU any "
    "more";

[[noreturn]] void raise_cuda(cudaError_t error, const std::string& text) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      raise(ErrorKind::kOutOfResources, text + kOutOfMemory);
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidResourceHandle:
    case cudaErrorInvalidDeviceFunction:
      raise(ErrorKind::kAborted, text + kOurMistake);
    case cudaErrorInitializationError:
      raise(ErrorKind::kAborted,
            text + "; a forked process cannot use CUDA if its parent did: start it with spawn");
    default:
      raise(ErrorKind::kAborted, text + kWorkFailed);
  }
}

#if defined(__HIPCC__)
// HIP 5.2 finds no function by name, so the library links to it.
#define FASTGPU_LOOK_UP(name, version, function) function = &name
#else
#define FASTGPU_LOOK_UP(name, version, function) look_up(#name, version, function)

template <typename Function>
void look_up(const char* name, unsigned version, Function& function) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(name, &found, version, cudaEnableDefault, &result);
  if (error != cudaSuccess || result != cudaDriverEntryPointSuccess || found == nullptr) {
    raise(ErrorKind::kInvalidArgument, std::string("the NVIDIA driver has no function ") + name +
                                           "; install a driver for CUDA 12 or newer");
  }
  function = reinterpret_cast<Function>(found);
}
#endif

}  // namespace

void check_cuda(cudaError_t error, const std::string& asked) {
  if (error == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // else a later call, by any code, reports it again
  raise_cuda(error, "cannot " + asked + ": CUDA says \"" + cudaGetErrorString(error) + "\" (" +
                        cudaGetErrorName(error) + ")");
}

CudaDriver::CudaDriver() {
  FASTGPU_LOOK_UP(cuGetErrorName, 6000, get_error_name);
  FASTGPU_LOOK_UP(cuGetErrorString, 6000, get_error_string);
  FASTGPU_LOOK_UP(cuDeviceGet, 2000, device_get);
  FASTGPU_LOOK_UP(cuDeviceGetAttribute, 2000, device_get_attribute);
  FASTGPU_LOOK_UP(cuDevicePrimaryCtxRetain, 7000, primary_context_retain);
  FASTGPU_LOOK_UP(cuCtxPushCurrent, 4000, push_context);
  FASTGPU_LOOK_UP(cuCtxPopCurrent, 4000, pop_context);
  FASTGPU_LOOK_UP(cuMemGetAllocationGranularity, 10020, get_granularity);
  FASTGPU_LOOK_UP(cuMemCreate, 10020, create);
  FASTGPU_LOOK_UP(cuMemRelease, 10020, release);
  FASTGPU_LOOK_UP(cuMemAddressReserve, 10020, reserve_addresses);
  FASTGPU_LOOK_UP(cuMemAddressFree, 10020, free_addresses);
  FASTGPU_LOOK_UP(cuMemMap, 10020, map);
  FASTGPU_LOOK_UP(cuMemUnmap, 10020, unmap);
  FASTGPU_LOOK_UP(cuMemSetAccess, 10020, set_access);
  FASTGPU_LOOK_UP(cuMemExportToShareableHandle, 10020, export_handle);
  FASTGPU_LOOK_UP(cuMemImportFromShareableHandle, 10020, import_handle);
}

void CudaDriver::check(CUresult result, const std::string& asked) const {
  if (result == CUDA_SUCCESS) return;
  const char* name = nullptr;
  const char* words = nullptr;
  get_error_name(result, &name);
  get_error_string(result, &words);
  const std::string text = "cannot " + asked + ": CUDA says \"" +
                           (words == nullptr ? "unknown error" : words) + "\" (" +
                           (name == nullptr ? std::to_string(result) : name) + ")";
  // The driver and the runtime number errors alike.
  raise_cuda(static_cast<cudaError_t>(result), text);
}

CUcontext CudaContexts::of(int device) const {
  if (device < 0 || device >= static_cast<int>(entries_.size())) {
    raise(ErrorKind::kInvalidArgument, "there is no GPU " + std::to_string(device) +
                                           "; this process sees " +
                                           std::to_string(entries_.size()));
  }
  Entry& entry = entries_[static_cast<std::size_t>(device)];
  std::call_once(entry.once, [&] {
    const std::string asked = "begin to use GPU " + std::to_string(device);
    CUdevice handle = 0;
    driver_.check(driver_.device_get(&handle, device), asked);
    driver_.check(driver_.primary_context_retain(&entry.context, handle), asked);
    int none = -1;
    first_used_.compare_exchange_strong(none, device);
  });
  return entry.context;
}

CudaDeviceScope::CudaDeviceScope(const CudaDriver& driver, CUcontext context) : driver_(driver) {
  driver_.check(driver_.push_context(context), "make a GPU current");
  const cudaError_t exchanged = cudaThreadExchangeStreamCaptureMode(&mode_);
  if (exchanged == cudaSuccess) return;
  CUcontext popped = nullptr;
  driver_.pop_context(&popped);
  check_cuda(exchanged, "relax the mode of stream captures");
}

CudaDeviceScope::~CudaDeviceScope() {
  cudaThreadExchangeStreamCaptureMode(&mode_);
  CUcontext popped = nullptr;
  driver_.pop_context(&popped);
}

}  // namespace fastgpu
