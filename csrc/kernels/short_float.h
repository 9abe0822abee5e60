// The bits of one float16, bfloat16 or fp8 number, to and from fp32, in arithmetic that CPU and GPU
// do alike, bit for bit and without branches (so that loops over it become SIMD).
// Narrowing rounds to nearest even. Every NaN, of either sign, narrows to the one kNaN of its
// format, since machines differ in the NaN they compute; widening makes a NaN quiet.
// What is too large becomes infinity, or NaN in float8_e4m3fn, which has no infinity.
// No fp32 subnormal is ever multiplied or read, so a thread that flushes them gets the same bits.
// Thread safety: pure functions.
//
// FASTGPU_ISA names the instruction set a file is compiled for. All that such a file shares with
// others lies in a namespace of that name: else the linker keeps one copy of an inline function,
// perhaps the AVX-512 one, for CPUs that lack it. For the same reason no std function is called.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FASTGPU_HD __host__ __device__
#else
#define FASTGPU_HD
#endif
#if !defined(FASTGPU_ISA)
#define FASTGPU_ISA base
#endif

namespace fastgpu {
inline namespace FASTGPU_ISA {

FASTGPU_HD constexpr uint32_t bits_of(float value) { return __builtin_bit_cast(uint32_t, value); }
FASTGPU_HD constexpr float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

inline constexpr uint32_t kFloatInfinity = 0x7f800000;
inline constexpr uint32_t kFloatQuiet = 0x00400000;  // the bit that makes a NaN quiet
inline constexpr uint32_t kFloatMagnitude = 0x7fffffff;

struct Float16 {
  using Storage = uint16_t;
  static constexpr uint32_t kExponentBits = 5;
  static constexpr uint32_t kMantissaBits = 10;
  static constexpr uint32_t kLargest = 0x7bff;   // finite
  static constexpr uint32_t kOverflow = 0x7c00;  // what a larger number becomes
  static constexpr uint32_t kNaN = 0x7e00;
};

struct Float8E4M3 {
  using Storage = uint8_t;
  static constexpr uint32_t kExponentBits = 4;
  static constexpr uint32_t kMantissaBits = 3;
  static constexpr uint32_t kLargest = 0x7e;
  static constexpr uint32_t kOverflow = 0x7f;
  static constexpr uint32_t kNaN = 0x7f;
};

struct Float8E5M2 {
  using Storage = uint8_t;
  static constexpr uint32_t kExponentBits = 5;
  static constexpr uint32_t kMantissaBits = 2;
  static constexpr uint32_t kLargest = 0x7b;
  static constexpr uint32_t kOverflow = 0x7c;
  static constexpr uint32_t kNaN = 0x7f;
};

struct BFloat16 {
  using Storage = uint16_t;
  static constexpr uint32_t kNaN = 0x7fc0;
};

// What the formats other than bfloat16 share: how their fields lie in fp32.
template <typename Format>
struct Layout {
  static constexpr uint32_t kShift = 23 - Format::kMantissaBits;
  static constexpr uint32_t kBias = (1u << (Format::kExponentBits - 1)) - 1;
  static constexpr uint32_t kRebias = (127 - kBias) << 23;
  static constexpr uint32_t kSmallestNormal = 1u << Format::kMantissaBits;
  static constexpr uint32_t kSign = 1u << (Format::kExponentBits + Format::kMantissaBits);
  static constexpr uint32_t kSignShift = 31 - Format::kExponentBits - Format::kMantissaBits;
  // The smallest subnormal, and the fp32 number whose last bit weighs just that.
  static constexpr float kUnit = float_of((128 - kBias - Format::kMantissaBits) << 23);
  static constexpr float kUnitIsLastBit = float_of((151 - kBias - Format::kMantissaBits) << 23);
};

template <typename Format>
FASTGPU_HD constexpr float widen(typename Format::Storage storage) {
  using L = Layout<Format>;
  const uint32_t magnitude = storage & (L::kSign - 1);
  const uint32_t sign = static_cast<uint32_t>(storage & L::kSign) << L::kSignShift;
  const uint32_t normal = (magnitude << L::kShift) + L::kRebias;
  const uint32_t subnormal =
      bits_of(static_cast<float>(static_cast<int32_t>(magnitude)) * L::kUnit);
  const uint32_t quiet =
      magnitude > Format::kOverflow || Format::kOverflow == Format::kNaN ? kFloatQuiet : 0;
  const uint32_t special = (magnitude << L::kShift) | kFloatInfinity | quiet;
  const uint32_t finite = magnitude < L::kSmallestNormal ? subnormal : normal;
  return float_of(sign | (magnitude > Format::kLargest ? special : finite));
}

template <>
FASTGPU_HD constexpr float widen<BFloat16>(uint16_t storage) {
  const uint32_t bits = static_cast<uint32_t>(storage) << 16;
  return float_of((bits & kFloatMagnitude) > kFloatInfinity ? bits | kFloatQuiet : bits);
}

template <typename Format>
FASTGPU_HD constexpr typename Format::Storage narrow(float value) {
  using L = Layout<Format>;
  const uint32_t bits = bits_of(value);
  const uint32_t magnitude = bits & kFloatMagnitude;
  const uint32_t sign = (bits >> L::kSignShift) & L::kSign;
  // Half of the last place less one, plus one where the last place is odd: a tie goes to even, and
  // a carry out of the mantissa is the next exponent.
  const uint32_t half_less_one = (1u << (L::kShift - 1)) - 1;
  const uint32_t odd = (magnitude >> L::kShift) & 1;
  const uint32_t normal = (magnitude - L::kRebias + half_less_one + odd) >> L::kShift;
  // The addition rounds: what is left of the sum's mantissa counts smallest subnormals.
  const uint32_t subnormal =
      bits_of(float_of(magnitude) + L::kUnitIsLastBit) - bits_of(L::kUnitIsLastBit);
  const uint32_t finite =
      magnitude < (L::kSmallestNormal << L::kShift) + L::kRebias ? subnormal : normal;
  // The first fp32 number with a larger exponent: below it, normal cannot wrap round.
  const uint32_t too_large = ((Format::kLargest >> Format::kMantissaBits) + 1) << 23;
  const bool overflows = magnitude >= too_large + L::kRebias || finite > Format::kLargest;
  const uint32_t signed_result = sign | (overflows ? Format::kOverflow : finite);
  const bool nan = magnitude > kFloatInfinity || (Format::kOverflow == Format::kNaN && overflows);
  return static_cast<typename Format::Storage>(nan ? Format::kNaN : signed_result);
}

template <>
FASTGPU_HD constexpr uint16_t narrow<BFloat16>(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const bool nan = (bits & kFloatMagnitude) > kFloatInfinity;
  return static_cast<uint16_t>(nan ? BFloat16::kNaN : rounded);
}

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
