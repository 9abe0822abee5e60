// The CUDA driver as the library uses it: entry points that are looked up at run time, so that
// nothing links to libcuda; errors; and the context of a device. Only CUDA sources include it.
//
// Threading: any thread.
#pragma once

#if defined(__HIPCC__)
#include "kernels/cuda/hip.h"
#else
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>
#endif

#include <algorithm>
#include <atomic>
#include <mutex>
#include <string>
#include <vector>

namespace fastgpu {

// Raises a CommError if a call failed. `asked` completes "cannot ".
void check_cuda(cudaError_t error, const std::string& asked);

class CudaDriver {
 public:
  // Raises InvalidArgumentError if the driver lacks a function.
  CudaDriver();

  void check(CUresult result, const std::string& asked) const;

  PFN_cuGetErrorName_v6000 get_error_name = nullptr;
  PFN_cuGetErrorString_v6000 get_error_string = nullptr;
  PFN_cuDeviceGet_v2000 device_get = nullptr;
  PFN_cuDeviceGetAttribute_v2000 device_get_attribute = nullptr;
  PFN_cuDevicePrimaryCtxRetain_v7000 primary_context_retain = nullptr;
  PFN_cuCtxPushCurrent_v4000 push_context = nullptr;
  PFN_cuCtxPopCurrent_v4000 pop_context = nullptr;
  PFN_cuMemGetAllocationGranularity_v10020 get_granularity = nullptr;
  PFN_cuMemCreate_v10020 create = nullptr;
  PFN_cuMemRelease_v10020 release = nullptr;
  PFN_cuMemAddressReserve_v10020 reserve_addresses = nullptr;
  PFN_cuMemAddressFree_v10020 free_addresses = nullptr;
  PFN_cuMemMap_v10020 map = nullptr;
  PFN_cuMemUnmap_v10020 unmap = nullptr;
  PFN_cuMemSetAccess_v10020 set_access = nullptr;
  PFN_cuMemExportToShareableHandle_v10020 export_handle = nullptr;
  PFN_cuMemImportFromShareableHandle_v10020 import_handle = nullptr;
};

// The primary contexts of the devices, which torch uses, too. Each is retained from its first use
// until the process ends.
class CudaContexts {
 public:
  CudaContexts(const CudaDriver& driver, int count)
      : driver_(driver), entries_(static_cast<std::size_t>(count)) {}
  CUcontext of(int device) const;
  // The first device that was used, or 0. What needs any context takes this one's: a new context
  // would cost memory of another process's GPU.
  int first_used() const noexcept { return std::max(first_used_.load(), 0); }

 private:
  struct Entry {
    std::once_flag once;
    CUcontext context = nullptr;
  };
  const CudaDriver& driver_;
  mutable std::vector<Entry> entries_;  // by device
  mutable std::atomic<int> first_used_{-1};
};

// Makes a device current for the calling thread. The destructor restores what was current before,
// even if that was no device. cudaSetDevice() would leave a context on a device that the thread
// never used.
//
// It also sets the thread's mode of stream captures to "relaxed". Otherwise, while another thread
// captures a stream in the mode "global", cudaEventQuery() and cudaMalloc() would be forbidden, and
// would end that capture with an error.
class CudaDeviceScope {
 public:
  CudaDeviceScope(const CudaDriver& driver, CUcontext context);
  ~CudaDeviceScope();
  CudaDeviceScope(const CudaDeviceScope&) = delete;
  CudaDeviceScope& operator=(const CudaDeviceScope&) = delete;

 private:
  const CudaDriver& driver_;
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace fastgpu
