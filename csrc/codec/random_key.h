// The keys of stochastic rounding: 64 bits that decide the random bits of one encoding.
// Threading: pure functions.
#pragma once

#include <cstdint>

namespace fastgpu {

// Returns a key for each number under `key`; for one key, different ones. This is the finalizer of
// SplitMix64 (Steele, Lea and Flood, 2014) over the number'th value of its sequence.
constexpr uint64_t derived_key(uint64_t key, uint64_t number) {
  uint64_t bits = key + (number + 1) * 0x9e3779b97f4a7c15;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111eb;
  return bits ^ (bits >> 31);
}

}  // namespace fastgpu
