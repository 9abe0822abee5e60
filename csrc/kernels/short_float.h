// The bits of one float16, bfloat16 or fp8 number, to and from fp32, in arithmetic that CPU and GPU
// do alike, bit for bit.
// Narrowing rounds to nearest even. Every NaN, of either sign, narrows to the one kNaN of its
// format, since machines differ in the NaN they compute. Widening makes a NaN quiet, save that of
// bfloat16, which is the upper half of an fp32 number as it stands.
// What is too large becomes what torch's own cast makes of it: infinity, the largest number in
// float8_e4m3fn (NaN before torch 2.12), NaN in the fnuz formats.
// No fp32 subnormal is ever multiplied or read, so a thread that flushes them gets the same bits.
// Thread safety: pure functions.
//
// FASTGPU_ISA names the instruction set a file is compiled for. All that such a file shares with
// others lies in a namespace of that name: else the linker keeps one copy of an inline function,
// perhaps the AVX-512 one, for CPUs that lack it. For the same reason no std function is called.
#pragma once

#include <cstdint>
#include <type_traits>

// What one element or register goes through is always inlined: else gcc calls it, lane by lane.
#define FASTGPU_INLINE inline __attribute__((always_inline))
#if defined(__CUDACC__)
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
  static constexpr uint32_t kInfinity = 0x7c00;  // above it are NaN
  static constexpr uint32_t kOverflow = 0x7c00;  // what a larger number becomes
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

// The fnuz formats have one zero; its negative is their only NaN, and they have no infinity.
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

// What the formats other than bfloat16 share: how their fields lie in fp32.
template <typename Format>
struct Layout {
  static constexpr uint32_t kShift = 23 - Format::kMantissaBits;
  static constexpr uint32_t kSign = 1u << (Format::kExponentBits + Format::kMantissaBits);
  static constexpr bool kOneZero = Format::kNaN == kSign;
  static constexpr uint32_t kBias = (1u << (Format::kExponentBits - 1)) - (kOneZero ? 0 : 1);
  static constexpr uint32_t kRebias = (127 - kBias) << 23;
  static constexpr uint32_t kSmallestNormal = 1u << Format::kMantissaBits;
  static constexpr uint32_t kSignShift = 31 - Format::kExponentBits - Format::kMantissaBits;
  // The smallest subnormal, and the fp32 number whose last bit weighs just that.
  static constexpr float kUnit = float_of((128 - kBias - Format::kMantissaBits) << 23);
  static constexpr float kUnitIsLastBit = float_of((151 - kBias - Format::kMantissaBits) << 23);
};

// What the conversions compute in: one number here, a SIMD register of them in kernels/cpu/lanes.h.
struct OneLane {
  using Words = uint32_t;
  using Floats = float;
  FASTGPU_HD static constexpr Words bits(Floats value) { return bits_of(value); }
  FASTGPU_HD static constexpr Floats floats(Words bits) { return float_of(bits); }
  FASTGPU_HD static constexpr Floats count(Words small) {
    return static_cast<float>(static_cast<int32_t>(small));
  }
};

// The fp32 numbers that the codes mean.
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
    const Words subnormal = Lanes::bits(Lanes::count(magnitude) * L::kUnit);
    const Words finite = magnitude < L::kSmallestNormal ? subnormal : normal;
    const Words infinity = shifted | kFloatInfinity;
    const Words nan = infinity | kFloatQuiet;
    if constexpr (L::kOneZero) {
      return Lanes::floats(codes == Format::kNaN ? nan : sign | finite);
    }
    const Words result = magnitude > Format::kLargest ? infinity : finite;
    return Lanes::floats(sign | (magnitude > Format::kInfinity ? nan : result));
  }
}

// The codes nearest to the fp32 numbers.
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
    // Half of the last place less one, plus one where the last place is odd: a tie goes to even,
    // and a carry out of the mantissa is the next exponent.
    constexpr uint32_t kHalfLessOne = (1u << (L::kShift - 1)) - 1;
    const Words odd = (magnitude >> L::kShift) & 1;
    const Words normal = (magnitude - L::kRebias + kHalfLessOne + odd) >> L::kShift;
    // The addition rounds: what is left of the sum's mantissa counts smallest subnormals.
    const Words subnormal =
        Lanes::bits(Lanes::floats(magnitude) + L::kUnitIsLastBit) - bits_of(L::kUnitIsLastBit);
    constexpr uint32_t kNormalFrom = (L::kSmallestNormal << L::kShift) + L::kRebias;
    const Words finite = magnitude < kNormalFrom ? subnormal : normal;
    // From the next exponent on, `normal` need not be right: it is cut off before.
    constexpr uint32_t kPast =
        (((Format::kLargest >> Format::kMantissaBits) + 1) << 23) + L::kRebias;
    const Words overflow = Words{} + Format::kOverflow;
    const Words kept = magnitude < kPast ? finite : overflow;
    const Words result = kept > Format::kLargest ? overflow : kept;
    if constexpr (L::kOneZero) {
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
