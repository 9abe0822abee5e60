// CUDA's names for HIP, so that hipcc compiles the CUDA sources for AMD's GPUs. Known to compile
// with HIP 5.2; it has never run.
//
// Device code takes nothing of it but HIP's own header (simt_hip.h). Host code takes functions,
// types and constants. Uses of functions that HIP 5.2 lacks are guarded.
#pragma once

#include <hip/hip_runtime.h>

// clang-format off
#define cudaDeviceGetStreamPriorityRange hipDeviceGetStreamPriorityRange
#define cudaDeviceProp hipDeviceProp_t
#define cudaDeviceSynchronize hipDeviceSynchronize
#define cudaErrorInitializationError hipErrorNotInitialized
#define cudaErrorInvalidConfiguration hipErrorInvalidConfiguration
#define cudaErrorInvalidDeviceFunction hipErrorInvalidDeviceFunction
#define cudaErrorInvalidResourceHandle hipErrorInvalidHandle
#define cudaErrorInvalidValue hipErrorInvalidValue
#define cudaErrorMemoryAllocation hipErrorOutOfMemory
#define cudaErrorNotReady hipErrorNotReady
#define cudaError_t hipError_t
#define cudaEventCreateWithFlags hipEventCreateWithFlags
#define cudaEventDestroy hipEventDestroy
#define cudaEventDisableTiming hipEventDisableTiming
#define cudaEventQuery hipEventQuery
#define cudaEventRecord hipEventRecord
#define cudaEvent_t hipEvent_t
#define cudaFree hipFree
#define cudaFreeHost hipHostFree
#define cudaFuncAttributes hipFuncAttributes
#define cudaFuncGetAttributes hipFuncGetAttributes
#define cudaGetDeviceCount hipGetDeviceCount
#define cudaGetDeviceProperties hipGetDeviceProperties
#define cudaGetErrorName hipGetErrorName
#define cudaGetErrorString hipGetErrorString
#define cudaGetLastError hipGetLastError
#define cudaHostAlloc hipHostMalloc
#define cudaHostAllocMapped hipHostMallocMapped
#define cudaHostAllocPortable hipHostMallocPortable
#define cudaIpcCloseMemHandle hipIpcCloseMemHandle
#define cudaIpcGetMemHandle hipIpcGetMemHandle
#define cudaIpcMemHandle_t hipIpcMemHandle_t
#define cudaIpcMemLazyEnablePeerAccess hipIpcMemLazyEnablePeerAccess
#define cudaIpcOpenMemHandle hipIpcOpenMemHandle
#define cudaLaunchKernel hipLaunchKernel
#define cudaMalloc hipMalloc
#define cudaMemcpyAsync hipMemcpyAsync
#define cudaMemcpyDefault hipMemcpyDefault
#define cudaStreamCaptureMode hipStreamCaptureMode
#define cudaStreamCaptureModeRelaxed hipStreamCaptureModeRelaxed
#define cudaStreamCaptureStatus hipStreamCaptureStatus
#define cudaStreamCaptureStatusNone hipStreamCaptureStatusNone
#define cudaStreamCreateWithPriority hipStreamCreateWithPriority
#define cudaStreamDestroy hipStreamDestroy
#define cudaStreamIsCapturing hipStreamIsCapturing
#define cudaStreamNonBlocking hipStreamNonBlocking
#define cudaStreamSynchronize hipStreamSynchronize
#define cudaStreamWaitEvent hipStreamWaitEvent
#define cudaStream_t hipStream_t
#define cudaSuccess hipSuccess
#define cudaThreadExchangeStreamCaptureMode hipThreadExchangeStreamCaptureMode

#define CUDA_SUCCESS hipSuccess
#define CU_MEM_ACCESS_FLAGS_PROT_READWRITE hipMemAccessFlagsProtReadWrite
#define CU_MEM_ALLOCATION_TYPE_PINNED hipMemAllocationTypePinned
#define CU_MEM_ALLOC_GRANULARITY_RECOMMENDED hipMemAllocationGranularityRecommended
#define CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR hipMemHandleTypePosixFileDescriptor
#define CU_MEM_LOCATION_TYPE_DEVICE hipMemLocationTypeDevice
#define CUcontext hipCtx_t
#define CUdevice hipDevice_t
#define CUdeviceptr hipDeviceptr_t
#define CUmemAccessDesc hipMemAccessDesc
#define CUmemAllocationProp hipMemAllocationProp
#define CUmemGenericAllocationHandle hipMemGenericAllocationHandle_t
#define CUresult hipError_t
#define requestedHandleTypes requestedHandleType  // of CUmemAllocationProp

// Functions of the driver, which the CUDA build looks up by name.
#define cuCtxPopCurrent hipCtxPopCurrent
#define cuCtxPushCurrent hipCtxPushCurrent
#define cuDeviceGet hipDeviceGet
#define cuDeviceGetAttribute hipDeviceGetAttribute
#define cuDevicePrimaryCtxRetain hipDevicePrimaryCtxRetain
#define cuMemAddressFree hipMemAddressFree
#define cuMemAddressReserve hipMemAddressReserve
#define cuMemCreate hipMemCreate
#define cuMemExportToShareableHandle hipMemExportToShareableHandle
#define cuMemGetAllocationGranularity hipMemGetAllocationGranularity
#define cuMemImportFromShareableHandle hipMemImportFromShareableHandle
#define cuMemMap hipMemMap
#define cuMemRelease hipMemRelease
#define cuMemSetAccess hipMemSetAccess
#define cuMemUnmap hipMemUnmap
// clang-format on

inline hipError_t cuGetErrorName(hipError_t error, const char** name) {
  *name = hipGetErrorName(error);
  return hipSuccess;
}
inline hipError_t cuGetErrorString(hipError_t error, const char** words) {
  *words = hipGetErrorString(error);
  return hipSuccess;
}

using PFN_cuGetErrorName_v6000 = decltype(&cuGetErrorName);
using PFN_cuGetErrorString_v6000 = decltype(&cuGetErrorString);
using PFN_cuDeviceGet_v2000 = decltype(&cuDeviceGet);
using PFN_cuDeviceGetAttribute_v2000 = decltype(&cuDeviceGetAttribute);
using PFN_cuDevicePrimaryCtxRetain_v7000 = decltype(&cuDevicePrimaryCtxRetain);
using PFN_cuCtxPushCurrent_v4000 = decltype(&cuCtxPushCurrent);
using PFN_cuCtxPopCurrent_v4000 = decltype(&cuCtxPopCurrent);
using PFN_cuMemGetAllocationGranularity_v10020 = decltype(&cuMemGetAllocationGranularity);
using PFN_cuMemCreate_v10020 = decltype(&cuMemCreate);
using PFN_cuMemRelease_v10020 = decltype(&cuMemRelease);
using PFN_cuMemAddressReserve_v10020 = decltype(&cuMemAddressReserve);
using PFN_cuMemAddressFree_v10020 = decltype(&cuMemAddressFree);
using PFN_cuMemMap_v10020 = decltype(&cuMemMap);
using PFN_cuMemUnmap_v10020 = decltype(&cuMemUnmap);
using PFN_cuMemSetAccess_v10020 = decltype(&cuMemSetAccess);
using PFN_cuMemExportToShareableHandle_v10020 = decltype(&cuMemExportToShareableHandle);
using PFN_cuMemImportFromShareableHandle_v10020 = decltype(&cuMemImportFromShareableHandle);
