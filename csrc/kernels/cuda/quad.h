// Exchanges between the four threads of a quad: threads 4 q to 4 q + 3 of a warp. `thread` is the
// own number in the quad.
//
// Threading: device code; all 32 threads of a warp call a function together.
#pragma once

#include "kernels/cuda/packs.h"

namespace fastgpu::device {

inline constexpr unsigned kQuad = 4;

FASTGPU_DEVICE uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

// Exchanges `upper` of the lower thread and `lower` of the upper one. The two are `mask` apart.
FASTGPU_DEVICE void exchange(uint32_t& lower, uint32_t& upper, bool is_upper, unsigned mask) {
  const uint32_t other = simt::shuffle_xor(is_upper ? lower : upper, mask);
  lower = is_upper ? other : lower;
  upper = is_upper ? upper : other;
}

// Word i of thread r becomes word r of thread i.
FASTGPU_DEVICE Pack transpose(Pack words, unsigned thread) {
  exchange(words.word[0], words.word[1], (thread & 1) != 0, 1);
  exchange(words.word[2], words.word[3], (thread & 1) != 0, 1);
  exchange(words.word[0], words.word[2], (thread & 2) != 0, 2);
  exchange(words.word[1], words.word[3], (thread & 2) != 0, 2);
  return words;
}

// With one value a thread: returns the largest of the quad. With four: returns to thread r the
// largest of the quad's values[r].
FASTGPU_DEVICE uint32_t quad_maximum(const uint32_t (&values)[1], unsigned) {
  const uint32_t pair = larger(values[0], simt::shuffle_xor(values[0], 1));
  return larger(pair, simt::shuffle_xor(pair, 2));
}
FASTGPU_DEVICE uint32_t quad_maximum(const uint32_t (&values)[kQuad], unsigned thread) {
  uint32_t pairs[kQuad] = {values[0], values[1], values[2], values[3]};
  exchange(pairs[0], pairs[2], (thread & 2) != 0, 2);
  exchange(pairs[1], pairs[3], (thread & 2) != 0, 2);
  uint32_t even = larger(pairs[0], pairs[2]);
  uint32_t odd = larger(pairs[1], pairs[3]);
  exchange(even, odd, (thread & 1) != 0, 1);
  return larger(even, odd);
}

// The way back: all[r] becomes the value of thread r. If the quad has one value, each thread has it
// already.
FASTGPU_DEVICE void quad_gather(uint32_t mine, unsigned, uint32_t (&all)[1]) { all[0] = mine; }
FASTGPU_DEVICE void quad_gather(uint32_t mine, unsigned thread, uint32_t (&all)[kQuad]) {
  const uint32_t beside = simt::shuffle_xor(mine, 1);
  const uint32_t even = (thread & 1) != 0 ? beside : mine;
  const uint32_t odd = (thread & 1) != 0 ? mine : beside;
  const uint32_t other_even = simt::shuffle_xor(even, 2);
  const uint32_t other_odd = simt::shuffle_xor(odd, 2);
  const bool is_upper = (thread & 2) != 0;
  all[0] = is_upper ? other_even : even;
  all[1] = is_upper ? other_odd : odd;
  all[2] = is_upper ? even : other_even;
  all[3] = is_upper ? odd : other_odd;
}

}  // namespace fastgpu::device
