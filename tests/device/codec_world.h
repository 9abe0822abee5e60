// Cases of the codec kernels: arrays of every kind of number at any address, encoded and decoded on
// the pretended machine and by the CPU's kernels.
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "base/codec.h"
#include "simt_machine.h"

namespace fastgpu::test {

struct CodecCase {
  Codec codec = Codec::kInt8;
  std::size_t count = 0;
  std::size_t shift = 0;          // of float arrays, in elements
  std::size_t encoded_shift = 0;  // in bytes
  bool feedback = false;
  bool stochastic = false;
  int sources = 1;
  int plain_at = -1;            // device::DecodeArgs
  double factor = 1;            // device::DecodeArgs
  bool negative_zeros = false;  // all arrays
  bool in_place = false;        // the plain array is the target
  unsigned blocks = 1;
  unsigned threads = 32;
  uint64_t seed = 1;
  simt::MachineFault fault = simt::MachineFault::kNone;
  bool rounds_count_up = false;  // planted: the kernel is told of a whole block at the end
  bool moves_plain = false;      // planted: the plain array is added before its turn
};

inline bool is_block_codec(Codec codec) { return codec == Codec::kInt8 || codec == Codec::kInt4; }

CodecCase draw_codec_case(Codec codec, uint64_t seed);

// Fills an array with runs of numbers of one kind: normal, huge, largest, tiny, subnormal, zero,
// constant, any bits, -0 beside a positive number, and normal ones with an infinity or a NaN. Not
// `most` or larger, if they are finite.
void fill_numbers(float* values, std::size_t count, float most, std::mt19937_64& random);
void fill_negative_zeros(float* values, std::size_t count);

// Compare every byte around and in what a kernel writes with what the CPU's kernels make of it.
// Return what differs, or "".
std::string run_encode(const CodecCase& codec_case);
std::string run_decode(const CodecCase& codec_case);

}  // namespace fastgpu::test
