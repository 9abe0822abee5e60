// Several elements at once where a CPU has instructions that the compiler does not find by itself:
// float16, by F16C and AVX-512. Block<Element>::kLanes is 0 where plain loops do as well.
// Included once by each instruction set's file; see short_float.h for FASTGPU_ISA.
#pragma once

#include <cstddef>

#include "kernels/arithmetic.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace fastgpu {
inline namespace FASTGPU_ISA {

template <typename Element>
struct Block {
  static constexpr std::size_t kLanes = 0;
};

#if defined(__F16C__)

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512BW__)
inline constexpr std::size_t kHalfLanes = 16;
#else
inline constexpr std::size_t kHalfLanes = 8;
#endif
typedef float FloatLanes __attribute__((vector_size(kHalfLanes * sizeof(float))));

template <>
struct Block<Short<Float16>> {
  static constexpr std::size_t kLanes = kHalfLanes;
  using Value = FloatLanes;

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512BW__)
  // All lanes by mask: gcc 12 warns of its own unmasked intrinsics (undefined sources).
  static constexpr __mmask16 kAll = 0xffff;
  static Value load(const uint16_t* from) {
    return _mm512_maskz_cvtph_ps(kAll, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static void store(uint16_t* to, Value value) {
    const __m256i halves =
        _mm512_maskz_cvtps_ph(kAll, value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm256_mask_set1_epi16(halves, nan, Float16::kNaN));
  }
#else
  static Value load(const uint16_t* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static void store(uint16_t* to, Value value) {
    // The one NaN in fp32 narrows to the one NaN in float16.
    const __m256 nan = _mm256_set1_ps(float_of(kFloatInfinity | kFloatQuiet));
    const __m256 one_nan = _mm256_blendv_ps(value, nan, _mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm256_cvtps_ph(one_nan, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
#endif

  static Value fill(float value) { return value - Value{}; }  // + would lose the sign of -0
  // The first `lanes` elements; what lies behind them in memory is not touched.
  static Value load_part(const uint16_t* from, std::size_t lanes) {
    uint16_t padded[kLanes] = {};
    __builtin_memcpy(padded, from, lanes * sizeof(uint16_t));
    return load(padded);
  }
  static void store_part(uint16_t* to, Value value, std::size_t lanes) {
    uint16_t padded[kLanes];
    store(padded, value);
    __builtin_memcpy(to, padded, lanes * sizeof(uint16_t));
  }
};

#endif

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
