// The parameters of reduce_all() and divide_all(), for device code and for the host that launches
// them. Threading: plain values.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastgpu::device {

inline constexpr int kMaxSources = 8;

// Source 0 is the first operand. A source may be a target; else regions do not overlap. All are
// aligned to the element size. If they lie alike within 16 bytes, they are accessed in packs.
struct Sources {
  const std::byte* at[kMaxSources];
  int count;  // from 1
};

struct Targets {
  std::byte* at[kMaxSources];
  int count;  // from 1
};

struct ReduceArgs {
  Sources sources;
  Targets targets;
  uint64_t size_bytes;
  double factor;  // 1, but for averages of floating-point numbers
};

struct DivideArgs {
  std::byte* target;
  uint64_t count;    // of elements
  uint64_t divisor;  // from 1
};

// The most threads of a block, of any kernel; the library launches blocks of this size.
inline constexpr unsigned kBlockThreads = 512;

}  // namespace fastgpu::device
