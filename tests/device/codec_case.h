// Cases of the codec kernels: arrays of every kind of number at any address, encoded and decoded by
// the CPU's kernels. The kernels run on the pretended machine (codec_world.h) or on a GPU
// (tests/gpu).
//
// Threading: one thread.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "base/codec.h"
#include "memory.h"

namespace fastgpu::simt {
enum class MachineFault : uint8_t;
}

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
  simt::MachineFault fault{};    // none
  bool rounds_count_up = false;  // planted: the kernel is told of a whole block at the end
  bool moves_plain = false;      // planted: the plain array is added before its turn
};

inline bool is_block_codec(Codec codec) { return codec == Codec::kInt8 || codec == Codec::kInt4; }

CodecCase draw_codec_case(Codec codec, uint64_t seed);

// Fills an array with runs of numbers of one kind: normal, huge, largest, tiny, subnormal, zero,
// constant, any bits, -0 beside a positive number, and normal ones with an infinity or a NaN.
// Finite ones are smaller than `most` in magnitude.
void fill_numbers(float* values, std::size_t count, float most, std::mt19937_64& random);
void fill_negative_zeros(float* values, std::size_t count);

std::string describe(const CodecCase& codec_case);

// Float arrays begin `shift` floats, and encoded ones `encoded_shift` bytes, behind a border of 16
// bytes; expected ones begin at the border. Arrays that kernels write end with guard bytes, which
// must stay as they are.
struct EncodeData {
  DeviceMemory source;
  DeviceMemory residual;
  uint64_t key;
  std::size_t size_bytes;  // of the encoding, with its guard bytes
  DeviceMemory expected;
  DeviceMemory expected_residual;
};
EncodeData draw_encode(const CodecCase& codec_case);

struct DecodeData {
  std::vector<DeviceMemory> sources;
  DeviceMemory plain;
  DeviceMemory expected;  // of the target, which is the plain array or as long as it
};
DecodeData draw_decode(const CodecCase& codec_case);

// Of add_residual(): the codec, feedback and sources are not used.
struct ResidualData {
  DeviceMemory values;
  DeviceMemory residual;
  DeviceMemory expected;
  DeviceMemory expected_residual;
};
ResidualData draw_residual(const CodecCase& codec_case);

}  // namespace fastgpu::test
