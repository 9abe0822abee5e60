// The part of CUDA that device code may use. The same source is compiled by nvcc for GPUs, by hipcc
// for those of AMD (simt_hip.h), and by the C++ compiler for the CPU, where the tests run it.
//
// Under nvcc every function is one instruction or builtin. On the CPU a CUDA thread is a fiber, and
// a scheduler with a seed decides which fiber runs next (tests/device/simt_machine.h). The library
// itself never runs device code on the CPU.
//
// Rules for device code:
//   - Memory is ordered by a store_release() of a word that a load_acquire() reads, and by
//     sync_block(). There are no fences: the thread sanitizer does not model them.
//   - The scope names who takes part: kDevice means threads of one GPU; kSystem means those of all
//     GPUs and the CPU. A pair orders memory only if both scopes include both sides.
//   - Memory that a peer writes is read by plain loads after an acquire; never through __ldg() or
//     `const __restrict__`, which may return old data.
//   - shuffle_xor() needs all 32 threads of the warp, and orders no memory.
//   - No thread waits for another of its block except at a barrier: on AMD, a thread that polls
//     keeps the others of its wavefront from going on.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastgpu::simt {

inline constexpr unsigned kWarpSize = 32;

enum class Scope : uint8_t { kDevice, kSystem };

}  // namespace fastgpu::simt

#if defined(__HIPCC__)

#include "kernels/cuda/simt_hip.h"

#elif defined(__CUDACC__)

#define FASTGPU_GPU  // compiled for a GPU
#define FASTGPU_DEVICE __device__ __forceinline__
// For code that runs seldom, such as the report of a failure.
#define FASTGPU_DEVICE_CALL inline __device__ __noinline__
#define FASTGPU_KERNEL __global__ void
#define FASTGPU_LAUNCH_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
// A kernel's struct parameter. A function that takes it by reference would otherwise get a copy on
// the stack.
#define FASTGPU_PARAMETER(type) const __grid_constant__ type
// A variable that the threads of a block share; not initialised.
#define FASTGPU_SHARED(type, name) __shared__ type name
#define FASTGPU_UNROLL _Pragma("unroll")
#define FASTGPU_NO_UNROLL _Pragma("unroll 1")

namespace fastgpu::simt {

FASTGPU_DEVICE unsigned thread_index() { return threadIdx.x; }  // in the block
FASTGPU_DEVICE unsigned block_size() { return blockDim.x; }     // in threads
FASTGPU_DEVICE unsigned block_index() { return blockIdx.x; }    // in the grid
FASTGPU_DEVICE unsigned grid_size() { return gridDim.x; }       // in blocks

// Waits for all threads of the block, and orders what they did before it.
FASTGPU_DEVICE void sync_block() { __syncthreads(); }
// The same; returns whether any thread passed true.
FASTGPU_DEVICE bool sync_block_or(bool mine) { return __syncthreads_or(mine) != 0; }
// Returns the value of the thread whose index in the warp is mine ^ mask.
FASTGPU_DEVICE uint32_t shuffle_xor(uint32_t value, unsigned mask) {
  return __shfl_xor_sync(0xffffffffu, value, static_cast<int>(mask));
}

// Nanoseconds; in tests, turns of the scheduler.
FASTGPU_DEVICE uint64_t now() {
  uint64_t nanoseconds;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(nanoseconds));
  return nanoseconds;
}
// For loops that poll a word.
FASTGPU_DEVICE void pause() { __nanosleep(32); }

template <Scope scope = Scope::kSystem>
FASTGPU_DEVICE uint64_t load_acquire(const uint64_t* word) {
  uint64_t value;
  if constexpr (scope == Scope::kSystem) {
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
  } else {
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
  }
  return value;
}

template <Scope scope = Scope::kSystem>
FASTGPU_DEVICE void store_release(uint64_t* word, uint64_t value) {
  if constexpr (scope == Scope::kSystem) {
    asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
  } else {
    asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
  }
}

// Atomic accesses of 8 bytes, of system scope; they order no memory.
FASTGPU_DEVICE uint64_t load_relaxed(const uint64_t* word) {
  uint64_t value;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(word));
  return value;
}
FASTGPU_DEVICE void store_relaxed(uint64_t* word, uint64_t value) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(word), "l"(value));
}

// Changes the word from 0 to 1; returns whether this call did. Of device scope; orders no memory.
FASTGPU_DEVICE bool claim(uint64_t* word) {
  uint64_t before;
  asm volatile("atom.relaxed.gpu.global.cas.b64 %0, [%1], 0, 1;" : "=l"(before) : "l"(word));
  return before == 0;
}

// Plain accesses to global memory, aligned to the type. In tests an unaligned address is a failure,
// as it is on a GPU. A vector type makes the compiler access 16 bytes at once.
template <typename Type>
FASTGPU_DEVICE Type load(const std::byte* source) {
  __builtin_assume(__isGlobal(source));
  if constexpr (alignof(Type) == 16) {
    return __builtin_bit_cast(Type, *reinterpret_cast<const uint4*>(source));
  } else {
    return *reinterpret_cast<const Type*>(source);
  }
}
template <typename Type>
FASTGPU_DEVICE void store(std::byte* target, const Type& value) {
  __builtin_assume(__isGlobal(target));
  if constexpr (alignof(Type) == 16) {
    *reinterpret_cast<uint4*>(target) = __builtin_bit_cast(uint4, value);
  } else {
    *reinterpret_cast<Type*>(target) = value;
  }
}

// Rounded to nearest; NaN may become any code of NaN. `lower` goes to the lower half.
FASTGPU_DEVICE uint32_t to_bfloat16_pair(float lower, float upper) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(upper), "f"(lower));
  return pair;
}
FASTGPU_DEVICE uint32_t to_float16_pair(float lower, float upper) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(upper), "f"(lower));
  return pair;
}
// The code is in the lower half.
FASTGPU_DEVICE float from_float16(uint32_t code) {
  float value;
  asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low; }"
      : "=f"(value)
      : "r"(code));
  return value;
}

}  // namespace fastgpu::simt

#else

#define FASTGPU_DEVICE inline
#define FASTGPU_DEVICE_CALL inline
#define FASTGPU_KERNEL inline void
#define FASTGPU_LAUNCH_BOUNDS(threads, blocks)
#define FASTGPU_PARAMETER(type) const type
#define FASTGPU_SHARED(type, name)  \
  static const char name##_key = 0; \
  type& name =                      \
      *static_cast<type*>(::fastgpu::simt::machine::shared_memory(&name##_key, sizeof(type)))
#define FASTGPU_UNROLL
#define FASTGPU_NO_UNROLL

namespace fastgpu::simt {

// Defined by the tests' machine, which is compiled without the thread sanitizer.
namespace machine {

unsigned thread_index();
unsigned block_size();
unsigned block_index();
unsigned grid_size();
bool sync_block_or(bool mine);
uint32_t shuffle_xor(uint32_t value, unsigned mask);
void may_switch();  // another fiber may run now
void pause();       // another fiber runs now
uint64_t now();
void* shared_memory(const void* key, std::size_t size_bytes);
// Notes that this thread releases the word. Returns whether the store may carry its order.
bool releases(const void* word, Scope scope);
// Whether a load of `scope` by this thread is ordered after the last store of the word.
bool acquires(const void* word, Scope scope);
void expect_aligned(const void* pointer, std::size_t alignment);

}  // namespace machine

inline unsigned thread_index() { return machine::thread_index(); }
inline unsigned block_size() { return machine::block_size(); }
inline unsigned block_index() { return machine::block_index(); }
inline unsigned grid_size() { return machine::grid_size(); }
inline void sync_block() { machine::sync_block_or(false); }
inline bool sync_block_or(bool mine) { return machine::sync_block_or(mine); }
inline uint32_t shuffle_xor(uint32_t value, unsigned mask) {
  return machine::shuffle_xor(value, mask);
}
inline uint64_t now() { return machine::now(); }
inline void pause() { machine::pause(); }

template <Scope scope = Scope::kSystem>
uint64_t load_acquire(const uint64_t* word) {
  machine::may_switch();
  if (machine::acquires(word, scope)) return __atomic_load_n(word, __ATOMIC_ACQUIRE);
  return __atomic_load_n(word, __ATOMIC_RELAXED);
}

template <Scope scope = Scope::kSystem>
void store_release(uint64_t* word, uint64_t value) {
  machine::may_switch();
  if (machine::releases(word, scope)) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
  } else {
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
  }
  machine::may_switch();
}

inline uint64_t load_relaxed(const uint64_t* word) {
  machine::may_switch();
  return __atomic_load_n(word, __ATOMIC_RELAXED);
}
inline void store_relaxed(uint64_t* word, uint64_t value) {
  machine::may_switch();
  __atomic_store_n(word, value, __ATOMIC_RELAXED);
  machine::may_switch();
}

inline bool claim(uint64_t* word) {
  machine::may_switch();
  uint64_t before = 0;
  return __atomic_compare_exchange_n(word, &before, 1, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

template <typename Type>
Type load(const std::byte* source) {
  machine::expect_aligned(source, alignof(Type));
  Type value;
  __builtin_memcpy(&value, source, sizeof value);
  return value;
}
template <typename Type>
void store(std::byte* target, const Type& value) {
  machine::expect_aligned(target, alignof(Type));
  __builtin_memcpy(target, &value, sizeof value);
}

}  // namespace fastgpu::simt

#endif
