// Converts codes and float32 by AVX2 or AVX-512 registers. It replaces the compiler's vectors of
// kernels/cpu/block_lanes.h, and takes fewer instructions.
//
// Included by block_lanes.h if the instruction set has it.
#pragma once

#include <immintrin.h>

namespace fastgpu {
inline namespace FASTGPU_ISA {

#if defined(FASTGPU_AVX512)

// Packing saturates. It works within 16 bytes, so each 16 bytes have four codes of each register.
FASTGPU_INLINE __m512i pack_codes(const FloatLanes (&scaled)[4]) {
  __m512i integers[4];
  for (int k = 0; k < 4; ++k) integers[k] = _mm512_maskz_cvtps_epi32(kAllLanes, scaled[k]);
  const __m512i halves = _mm512_maskz_packs_epi32(kAllHalves, integers[0], integers[1]);
  const __m512i others = _mm512_maskz_packs_epi32(kAllHalves, integers[2], integers[3]);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_maskz_permutexvar_epi32(kAllLanes, order,
                                        _mm512_maskz_packs_epi16(~__mmask64{0}, halves, others));
}

template <typename Format>
FASTGPU_INLINE void store_codes(int8_t* codes, const FloatLanes (&scaled)[4]) {
  constexpr int kSmallest = 1 << Format::kSmallestExponent;
  __m512i packed = pack_codes(scaled);
  if constexpr (kSmallest < 128) packed = _mm512_min_epi8(packed, _mm512_set1_epi8(kSmallest - 1));
  _mm512_storeu_si512(codes, packed);
}

FASTGPU_INLINE FloatLanes load_codes(const int8_t* codes) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  return _mm512_maskz_cvtepi32_ps(kAllLanes, _mm512_maskz_cvtepi8_epi32(kAllLanes, bytes));
}

FASTGPU_INLINE FloatLanes multiply_add(FloatLanes a, FloatLanes b, FloatLanes c) {
  return _mm512_fmadd_ps(a, b, c);
}

FASTGPU_INLINE uint64_t greater_lanes(IntLanes a, IntLanes b) {
  return _mm512_cmpgt_epi32_mask(__builtin_bit_cast(__m512i, a), __builtin_bit_cast(__m512i, b));
}

#else

// Packing saturates. It works within 16 bytes, so each 16 bytes have four codes of each register.
FASTGPU_INLINE __m256i pack_codes(const FloatLanes (&scaled)[4]) {
  const __m256i halves =
      _mm256_packs_epi32(_mm256_cvtps_epi32(scaled[0]), _mm256_cvtps_epi32(scaled[1]));
  const __m256i others =
      _mm256_packs_epi32(_mm256_cvtps_epi32(scaled[2]), _mm256_cvtps_epi32(scaled[3]));
  return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(halves, others),
                                     _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

template <typename Format>
FASTGPU_INLINE void store_codes(int8_t* codes, const FloatLanes (&scaled)[4]) {
  constexpr int kSmallest = 1 << Format::kSmallestExponent;
  __m256i packed = pack_codes(scaled);
  if constexpr (kSmallest < 128) packed = _mm256_min_epi8(packed, _mm256_set1_epi8(kSmallest - 1));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), packed);
}

FASTGPU_INLINE FloatLanes load_codes(const int8_t* codes) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}

FASTGPU_INLINE FloatLanes multiply_add(FloatLanes a, FloatLanes b, FloatLanes c) {
  return _mm256_fmadd_ps(a, b, c);
}

FASTGPU_INLINE uint64_t greater_lanes(IntLanes a, IntLanes b) {
  const __m256 greater = __builtin_bit_cast(__m256, a > b);
  return static_cast<uint32_t>(_mm256_movemask_ps(greater));
}

#endif

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
