#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "base/memory_file.h"
#include "device/cuda_memory.h"

namespace fastgpu {
namespace {

// The content of a shared descriptor that is a file. Any other shared descriptor is CUDA's own.
struct IpcRecord {
  uint64_t magic = 0;
  uint64_t size_bytes = 0;
  cudaIpcMemHandle_t handle{};
};
constexpr uint64_t kIpcMagic = 0x3163706975706766;  // "fgpuipc1"

CUmemAllocationProp properties_of(int device) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
  return properties;
}

std::string bytes_of_gpu(std::size_t size_bytes, int device) {
  return std::to_string(size_bytes) + " bytes of GPU " + std::to_string(device);
}

CUdeviceptr address_of(const DeviceSegment& segment) {
  return reinterpret_cast<CUdeviceptr>(segment.base);
}

bool is_file(int fd) {
  struct stat status{};
  return ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

}  // namespace

bool CudaMemory::exports_descriptors([[maybe_unused]] int device) const {
#if defined(__HIPCC__)
  return false;  // HIP 5.2 has no attributes that tell; IPC handles need none
#else
  CUdevice handle = 0;
  int has_management = 0;
  int has_descriptors = 0;
  driver_.check(driver_.device_get(&handle, device), "find a GPU");
  driver_.check(
      driver_.device_get_attribute(&has_management,
                                   CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, handle),
      "ask what a GPU can do");
  driver_.check(driver_.device_get_attribute(
                    &has_descriptors,
                    CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, handle),
                "ask what a GPU can do");
  return has_management != 0 && has_descriptors != 0;
#endif
}

DeviceSegment CudaMemory::allocate(int device, std::size_t size_bytes) {
  const std::string asked = "allocate " + bytes_of_gpu(size_bytes, device);
  if (!exports_descriptors(device)) {
    void* memory = nullptr;
    check_cuda(cudaMalloc(&memory, size_bytes), asked);
    const DeviceSegment segment{static_cast<std::byte*>(memory), size_bytes, device};
    remember(segment, {});
    return segment;
  }
  const CUmemAllocationProp properties = properties_of(device);
  std::size_t unit = 0;
  driver_.check(driver_.get_granularity(&unit, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
                asked);
  const std::size_t rounded = (size_bytes + unit - 1) / unit * unit;
  CUmemGenericAllocationHandle handle = 0;
  driver_.check(driver_.create(&handle, rounded, &properties, 0), asked);
  return map_handle(device, handle, rounded);
}

// Takes over the handle, and releases it if it cannot be mapped.
DeviceSegment CudaMemory::map_handle(int device, CUmemGenericAllocationHandle handle,
                                     std::size_t size_bytes) {
  const std::string asked = "map " + bytes_of_gpu(size_bytes, device);
  CUdeviceptr address = 0;
  const CUresult reserved = driver_.reserve_addresses(&address, size_bytes, 0, 0, 0);
  if (reserved != CUDA_SUCCESS) driver_.release(handle);
  driver_.check(reserved, asked);
  if (const CUresult mapped = driver_.map(address, size_bytes, 0, handle, 0);
      mapped != CUDA_SUCCESS) {
    driver_.free_addresses(address, size_bytes);
    driver_.release(handle);
    driver_.check(mapped, asked);
  }
  const DeviceSegment segment{reinterpret_cast<std::byte*>(address), size_bytes, device};
  CUmemAccessDesc access{};
  access.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  const CUresult allowed = driver_.set_access(address, size_bytes, &access, 1);
  if (allowed != CUDA_SUCCESS) unmap_handle(segment, handle);
  driver_.check(allowed, asked);
  remember(segment, {.by_handle = true, .handle = handle});
  return segment;
}

void CudaMemory::unmap_handle(const DeviceSegment& segment,
                              CUmemGenericAllocationHandle handle) noexcept {
  driver_.unmap(address_of(segment), segment.size_bytes);
  driver_.free_addresses(address_of(segment), segment.size_bytes);
  driver_.release(handle);
}

// cudaFree() waits for the device itself; unmapping does not.
void CudaMemory::free(const DeviceSegment& segment) noexcept {
  const Backing backing = forget(segment);
  if (!backing.by_handle) {
    cudaFree(segment.base);
    return;
  }
  cudaDeviceSynchronize();
  unmap_handle(segment, backing.handle);
}

SharedSegment CudaMemory::share(const DeviceSegment& segment) {
  const std::string asked = "share " + bytes_of_gpu(segment.size_bytes, segment.device);
  Backing backing;
  {
    const std::lock_guard lock(mutex_);
    const auto found = backings_.find(segment.base);
    if (found == backings_.end()) {
      raise(ErrorKind::kInvalidArgument, "cannot " + asked + ": it was not allocated here");
    }
    backing = found->second;
  }
  if (backing.by_handle) {
    int fd = -1;
    driver_.check(
        driver_.export_handle(&fd, backing.handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
        asked);
    return {UniqueFd(fd), segment.size_bytes};
  }
  IpcRecord record{.magic = kIpcMagic, .size_bytes = segment.size_bytes, .handle = {}};
  check_cuda(cudaIpcGetMemHandle(&record.handle, segment.base), asked);
  UniqueFd file = make_memory_file("fastgpu-ipc", sizeof record);
  if (::pwrite(file.get(), &record, sizeof record, 0) != sizeof record) {
    raise_system(ErrorKind::kRendezvous, "cannot " + asked, errno);
  }
  return {std::move(file), segment.size_bytes};
}

DeviceSegment CudaMemory::map(int device, const SharedSegment& shared) {
  return is_file(shared.fd.get()) ? map_ipc(device, shared) : map_descriptor(device, shared);
}

DeviceSegment CudaMemory::map_descriptor(int device, const SharedSegment& shared) {
  CUmemGenericAllocationHandle handle = 0;
  void* const fd = reinterpret_cast<void*>(static_cast<uintptr_t>(shared.fd.get()));
  driver_.check(driver_.import_handle(&handle, fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
                "import a peer's memory for GPU " + std::to_string(device));
  return map_handle(device, handle, shared.size_bytes);
}

DeviceSegment CudaMemory::map_ipc(int device, const SharedSegment& shared) {
  IpcRecord record;
  if (::pread(shared.fd.get(), &record, sizeof record, 0) != sizeof record ||
      record.magic != kIpcMagic || record.size_bytes != shared.size_bytes) {
    raise(
        ErrorKind::kPeerLost,
        "a peer passed a file that is not memory of a GPU; does every rank run the same version?");
  }
  void* memory = nullptr;
  check_cuda(cudaIpcOpenMemHandle(&memory, record.handle, cudaIpcMemLazyEnablePeerAccess),
             "map a peer's memory for GPU " + std::to_string(device));
  const DeviceSegment mapped{static_cast<std::byte*>(memory), shared.size_bytes, device};
  remember(mapped, {});
  return mapped;
}

void CudaMemory::unmap(const DeviceSegment& mapped) noexcept {
  const Backing backing = forget(mapped);
  cudaDeviceSynchronize();
  if (backing.by_handle) {
    unmap_handle(mapped, backing.handle);
  } else {
    cudaIpcCloseMemHandle(mapped.base);
  }
}

void CudaMemory::remember(const DeviceSegment& segment, const Backing& backing) {
  const std::lock_guard lock(mutex_);
  backings_[segment.base] = backing;
}

CudaMemory::Backing CudaMemory::forget(const DeviceSegment& segment) noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = backings_.find(segment.base);
  if (found == backings_.end()) return {};
  const Backing backing = found->second;
  backings_.erase(found);
  return backing;
}

}  // namespace fastgpu
