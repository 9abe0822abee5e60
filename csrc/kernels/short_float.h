// Converts single float16, bfloat16 and fp8 numbers to and from fp32, with the same bits on CPU and
// GPU.
//
// Narrowing rounds to nearest, ties to even. Every NaN narrows to the canonical kNaN of its format,
// because machines differ in the NaN that they compute. Widening makes a NaN quiet, except for
// bfloat16, which is the upper half of an fp32 number.
// A number that is too large narrows as in torch's own cast: to infinity; in float8_e4m3fn to the
// largest number (NaN before torch 2.12); in the fnuz formats to NaN.
// No fp32 subnormal is multiplied or read, so a thread that flushes subnormals gets the same bits.
//
// FASTGPU_ISA is the instruction set that a file is compiled for. Inline functions that several
// such files share are in a namespace of that name. Otherwise the linker would keep one copy,
// perhaps with AVX-512, also for CPUs that lack it. For the same reason no std function is called.
//
// Threading: pure functions.
#pragma once

#include <cstdint>
#include <type_traits>

// Functions of one element or register are always inlined; otherwise gcc calls them for every lane.
#define FASTGPU_INLINE inline __attribute__((always_inline))
#if defined(__CUDACC__) || defined(__HIPCC__)
#define FASTGPU_HD __host__ __device__ FASTGPU_INLINE
#else
#define FASTGPU_HD FASTGPU_INLINE
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
  static constexpr uint32_t kInfinity = 0x7c00;  // larger codes are NaN
  static constexpr uint32_t kOverflow = 0x7c00;  // the code of a number that is too large
  static constexpr uint32_t kNaN = 0x7e00;
};

struct Float8E4M3 {
  using Storage = uint8_t;
  static constexpr uint32_t kExponentBits = 4;
  static constexpr uint32_t kMantissaBits = 3;
  static constexpr uint32_t kLargest = 0x7e;
  static constexpr uint32_t kInfinity = 0x7e;  // none
  static constexpr uint32_t kOverflow = 0x7e;
  static constexpr uint32_t kNaN = 0x7f;
};

struct Float8E5M2 {
  using Storage = uint8_t;
  static constexpr uint32_t kExponentBits = 5;
  static constexpr uint32_t kMantissaBits = 2;
  static constexpr uint32_t kLargest = 0x7b;
  static constexpr uint32_t kInfinity = 0x7c;
  static constexpr uint32_t kOverflow = 0x7c;
  static constexpr uint32_t kNaN = 0x7f;
};

// The fnuz formats have no -0 and no infinity. The code of -0 is the only NaN.
struct Float8E4M3Fnuz {
  using Storage = uint8_t;
  static constexpr uint32_t kExponentBits = 4;
  static constexpr uint32_t kMantissaBits = 3;
  static constexpr uint32_t kLargest = 0x7f;
  static constexpr uint32_t kInfinity = 0x7f;  // none
  static constexpr uint32_t kOverflow = 0x80;
  static constexpr uint32_t kNaN = 0x80;
};

struct Float8E5M2Fnuz {
  using Storage = uint8_t;
  static constexpr uint32_t kExponentBits = 5;
  static constexpr uint32_t kMantissaBits = 2;
  static constexpr uint32_t kLargest = 0x7f;
  static constexpr uint32_t kInfinity = 0x7f;  // none
  static constexpr uint32_t kOverflow = 0x80;
  static constexpr uint32_t kNaN = 0x80;
};

struct BFloat16 {
  using Storage = uint16_t;
  static constexpr uint32_t kInfinity = 0x7f80;
  static constexpr uint32_t kNaN = 0x7fc0;
};

// The position of a format's fields in fp32, for all formats but bfloat16.
template <typename Format>
struct Layout {
  static constexpr uint32_t kShift = 23 - Format::kMantissaBits;
  static constexpr uint32_t kSign = 1u << (Format::kExponentBits + Format::kMantissaBits);
  static constexpr bool kFnuz = Format::kNaN == kSign;
  static constexpr uint32_t kBias = (1u << (Format::kExponentBits - 1)) - (kFnuz ? 0 : 1);
  static constexpr uint32_t kRebias = (127 - kBias) << 23;
  static constexpr uint32_t kSmallestNormal = 1u << Format::kMantissaBits;
  static constexpr uint32_t kSignShift = 31 - Format::kExponentBits - Format::kMantissaBits;
  // The smallest subnormal, and the fp32 number whose last bit has that value.
  static constexpr float kUnit = float_of((128 - kBias - Format::kMantissaBits) << 23);
  static constexpr float kUnitIsLastBit = float_of((151 - kBias - Format::kMantissaBits) << 23);
};

// The unit of computation: here one number, in kernels/cpu/lanes.h a SIMD register of numbers.
struct OneLane {
  using Words = uint32_t;
  using Floats = float;
  FASTGPU_HD static constexpr Words bits(Floats value) { return bits_of(value); }
  FASTGPU_HD static constexpr Floats floats(Words bits) { return float_of(bits); }
  FASTGPU_HD static constexpr Floats to_float(Words small) {
    return static_cast<float>(static_cast<int32_t>(small));
  }
};

// Returns the values of the codes.
template <typename Format, typename Lanes>
FASTGPU_HD constexpr typename Lanes::Floats widen_lanes(typename Lanes::Words codes) {
  using Words = typename Lanes::Words;
  if constexpr (std::is_same_v<Format, BFloat16>) {
    return Lanes::floats(codes << 16);
  } else {
    using L = Layout<Format>;
    const Words magnitude = codes & (L::kSign - 1);
    const Words sign = (codes & L::kSign) << L::kSignShift;
    const Words shifted = magnitude << L::kShift;
    const Words normal = shifted + L::kRebias;
    const Words subnormal = Lanes::bits(Lanes::to_float(magnitude) * L::kUnit);
    const Words finite = magnitude < L::kSmallestNormal ? subnormal : normal;
    const Words infinity = shifted | kFloatInfinity;
    const Words nan = infinity | kFloatQuiet;
    if constexpr (L::kFnuz) {
      return Lanes::floats(codes == Format::kNaN ? nan : sign | finite);
    }
    const Words result = magnitude > Format::kLargest ? infinity : finite;
    return Lanes::floats(sign | (magnitude > Format::kInfinity ? nan : result));
  }
}

// Returns the codes nearest to the values.
template <typename Format, typename Lanes>
FASTGPU_HD constexpr typename Lanes::Words narrow_lanes(typename Lanes::Floats values) {
  using Words = typename Lanes::Words;
  const Words bits = Lanes::bits(values);
  const Words magnitude = bits & kFloatMagnitude;
  const Words nan = Words{} + Format::kNaN;
  if constexpr (std::is_same_v<Format, BFloat16>) {
    const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return magnitude > kFloatInfinity ? nan : rounded;
  } else {
    using L = Layout<Format>;
    const Words sign = (bits >> L::kSignShift) & L::kSign;
    // Adding kHalfLessOne, plus 1 if the last kept bit is odd, rounds to nearest and ties to even.
    // A carry out of the mantissa increments the exponent, as it should.
    constexpr uint32_t kHalfLessOne = (1u << (L::kShift - 1)) - 1;
    const Words odd = (magnitude >> L::kShift) & 1;
    const Words normal = (magnitude - L::kRebias + kHalfLessOne + odd) >> L::kShift;
    // The addition rounds. The low bits of the sum are the number in units of the smallest
    // subnormal.
    const Words subnormal =
        Lanes::bits(Lanes::floats(magnitude) + L::kUnitIsLastBit) - bits_of(L::kUnitIsLastBit);
    constexpr uint32_t kNormalFrom = (L::kSmallestNormal << L::kShift) + L::kRebias;
    const Words finite = magnitude < kNormalFrom ? subnormal : normal;
    // `normal` may be wrong from the exponent after the largest on, where `overflow` replaces it.
    constexpr uint32_t kOverflowFrom =
        (((Format::kLargest >> Format::kMantissaBits) + 1) << 23) + L::kRebias;
    const Words overflow = Words{} + Format::kOverflow;
    const Words kept = magnitude < kOverflowFrom ? finite : overflow;
    const Words result = kept > Format::kLargest ? overflow : kept;
    if constexpr (L::kFnuz) {
      const Words number = result == 0 ? result : sign | result;
      return result > Format::kLargest ? nan : number;
    } else {
      return magnitude > kFloatInfinity ? nan : sign | result;
    }
  }
}

template <typename Format>
FASTGPU_HD constexpr float widen(typename Format::Storage code) {
  return widen_lanes<Format, OneLane>(code);
}

template <typename Format>
FASTGPU_HD constexpr typename Format::Storage narrow(float value) {
  return static_cast<typename Format::Storage>(narrow_lanes<Format, OneLane>(value));
}

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
