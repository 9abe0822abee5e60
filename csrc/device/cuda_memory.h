// Device memory that peers can map, by CUDA's virtual memory management, or by cudaMalloc and an
// IPC handle where the device lacks that. Only CUDA sources include it.
//
// Ownership: as in device/runtime.h; the driver outlives it. Threading: any thread.
#pragma once

#include <map>
#include <mutex>

#include "device/cuda_driver.h"
#include "device/runtime.h"

namespace fastgpu {

// A device must be current in every call.
class CudaMemory {
 public:
  explicit CudaMemory(const CudaDriver& driver) : driver_(driver) {}

  DeviceSegment allocate(int device, std::size_t size_bytes);
  void free(const DeviceSegment& segment) noexcept;
  SharedSegment share(const DeviceSegment& segment);
  DeviceSegment map(int device, const SharedSegment& shared);
  void unmap(const DeviceSegment& mapped) noexcept;

 private:
  // What is behind an address: a handle of the virtual memory management, or an allocation or
  // mapping of the runtime.
  struct Backing {
    bool by_handle = false;
    CUmemGenericAllocationHandle handle = 0;
  };

  bool exports_descriptors(int device) const;
  DeviceSegment map_handle(int device, CUmemGenericAllocationHandle handle, std::size_t size_bytes);
  DeviceSegment map_descriptor(int device, const SharedSegment& shared);
  DeviceSegment map_ipc(int device, const SharedSegment& shared);
  void unmap_handle(const DeviceSegment& segment, CUmemGenericAllocationHandle handle) noexcept;
  void remember(const DeviceSegment& segment, const Backing& backing);
  Backing forget(const DeviceSegment& segment) noexcept;

  const CudaDriver& driver_;
  std::mutex mutex_;  // guards backings_
  std::map<const std::byte*, Backing> backings_;
};

}  // namespace fastgpu
