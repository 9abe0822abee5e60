// simt.h for AMD's GPUs, compiled by hipcc. It has never run on one.
//
// A wavefront has 64 threads (CDNA) or 32 (RDNA). Device code counts in warps of 32, so a wavefront
// of 64 is two of them: shuffles stay in its halves, and either half may be beyond a loop's end.
//
// Threading: device code; any thread.
#pragma once

#include "kernels/cuda/hip.h"

#define FASTGPU_GPU
#define FASTGPU_DEVICE __device__ __forceinline__
#define FASTGPU_DEVICE_CALL FASTGPU_DEVICE  // a call would need a stack
#define FASTGPU_KERNEL __global__ void
// HIP's second parameter is not the number of blocks.
#define FASTGPU_LAUNCH_BOUNDS(threads, blocks) __launch_bounds__(threads)
#define FASTGPU_PARAMETER(type) const type
#define FASTGPU_SHARED(type, name) __shared__ type name
#define FASTGPU_UNROLL _Pragma("unroll")
#define FASTGPU_NO_UNROLL _Pragma("nounroll")

namespace fastgpu::simt {

FASTGPU_DEVICE unsigned thread_index() { return threadIdx.x; }
FASTGPU_DEVICE unsigned block_size() { return blockDim.x; }
FASTGPU_DEVICE unsigned block_index() { return blockIdx.x; }
FASTGPU_DEVICE unsigned grid_size() { return gridDim.x; }

// __syncthreads() of HIP orders shared memory only. A thread that releases a word for the whole
// system after the barrier must release the stores of all wavefronts. So each wavefront waits for
// its own stores before the barrier, which a fence of the block's scope would not make it do.
FASTGPU_DEVICE void sync_block() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "agent");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "agent");
}
FASTGPU_DEVICE bool sync_block_or(bool mine) {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "agent");
  const bool any = __syncthreads_or(mine) != 0;
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "agent");
  return any;
}
FASTGPU_DEVICE uint32_t shuffle_xor(uint32_t value, unsigned mask) {
  return __shfl_xor(value, static_cast<int>(mask), static_cast<int>(kWarpSize));
}

// The counter has 100 MHz on CDNA 2 and RDNA 2.
FASTGPU_DEVICE uint64_t now() { return __builtin_amdgcn_s_memrealtime() * 10; }
FASTGPU_DEVICE void pause() { __builtin_amdgcn_s_sleep(1); }  // 64 cycles

// A Type as bytes, because a class cannot be copied from another address space. Without the address
// space, an access would be one to any memory, which the hardware first has to find.
template <typename Type>
using Bytes = uint8_t __attribute__((ext_vector_type(sizeof(Type))));
template <typename Type>
using GlobalBytes = __attribute__((address_space(1), aligned(alignof(Type)))) Bytes<Type>;

template <typename Type>
FASTGPU_DEVICE Type load(const std::byte* source) {
  return __builtin_bit_cast(Type, *(const GlobalBytes<Type>*)source);
}
template <typename Type>
FASTGPU_DEVICE void store(std::byte* target, const Type& value) {
  *(GlobalBytes<Type>*)target = __builtin_bit_cast(Bytes<Type>, value);
}

template <Scope scope = Scope::kSystem>
FASTGPU_DEVICE uint64_t load_acquire(const uint64_t* word) {
  if constexpr (scope == Scope::kSystem) {
    return __hip_atomic_load(word, __ATOMIC_ACQUIRE, __HIP_MEMORY_SCOPE_SYSTEM);
  } else {
    return __hip_atomic_load(word, __ATOMIC_ACQUIRE, __HIP_MEMORY_SCOPE_AGENT);
  }
}

template <Scope scope = Scope::kSystem>
FASTGPU_DEVICE void store_release(uint64_t* word, uint64_t value) {
  if constexpr (scope == Scope::kSystem) {
    __hip_atomic_store(word, value, __ATOMIC_RELEASE, __HIP_MEMORY_SCOPE_SYSTEM);
  } else {
    __hip_atomic_store(word, value, __ATOMIC_RELEASE, __HIP_MEMORY_SCOPE_AGENT);
  }
}

FASTGPU_DEVICE uint64_t load_relaxed(const uint64_t* word) {
  return __hip_atomic_load(word, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_SYSTEM);
}
FASTGPU_DEVICE void store_relaxed(uint64_t* word, uint64_t value) {
  __hip_atomic_store(word, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_SYSTEM);
}

FASTGPU_DEVICE bool claim(uint64_t* word) {
  uint64_t before = 0;
  return __hip_atomic_compare_exchange_strong(word, &before, uint64_t{1}, __ATOMIC_RELAXED,
                                              __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}

// gfx90a and gfx1030 have no instruction for bfloat16.
FASTGPU_DEVICE uint32_t to_bfloat16_pair(float lower, float upper) {
  const auto rounded = [](float value) {
    const auto bits = __builtin_bit_cast(uint32_t, value);
    return bits + 0x7fff + ((bits >> 16) & 1);
  };
  return rounded(lower) >> 16 | (rounded(upper) & 0xffff0000);
}
FASTGPU_DEVICE uint32_t to_float16_pair(float lower, float upper) {
  const auto code = [](float value) {
    return uint32_t{__builtin_bit_cast(uint16_t, static_cast<_Float16>(value))};
  };
  return code(lower) | code(upper) << 16;
}
FASTGPU_DEVICE float from_float16(uint32_t code) {
  return static_cast<float>(__builtin_bit_cast(_Float16, static_cast<uint16_t>(code)));
}

}  // namespace fastgpu::simt
