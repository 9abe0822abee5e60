// float16 and bfloat16 by AVX2 or AVX-512 register: the same as kernels/cpu/lanes.h in fewer
// instructions. Loading and storing a register of fp32 takes about a cycle, so every instruction
// counts.
//
// store() does not make every NaN canonical. It writes any NaN of the format, a NanWatch records
// that there was one, and the loop then calls canonicalize_nans. This requires fp32 NaN with a
// zero lower half, where rounding does not carry. All NaN widened from these formats, and all NaN
// that the CPU computes, have it.
//
// Included by lanes.h if the instruction set has it.
#pragma once

#include <immintrin.h>

namespace fastgpu {
inline namespace FASTGPU_ISA {

#if defined(FASTGPU_AVX512)

// Masks of all lanes. gcc 12 warns about the unmasked forms of these intrinsics.
inline constexpr __mmask16 kAllLanes = 0xffff;
inline constexpr __mmask32 kAllHalves = 0xffffffff;

// Each call depends on the one before, about six cycles, so loops alternate between two.
class NanWatch {
 public:
  FASTGPU_INLINE void observe(FloatLanes a, FloatLanes b) {
    numbers_ = _mm512_mask_cmp_ps_mask(numbers_, a, b, _CMP_ORD_Q);
  }
  FASTGPU_INLINE bool saw_nan() const { return numbers_ != kAllLanes; }

 private:
  __mmask16 numbers_ = kAllLanes;
};

template <>
struct InOrder<Float16> {
  FASTGPU_INLINE static FloatLanes load(const uint16_t* from) {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_maskz_cvtph_ps(kAllLanes, codes);
  }
  FASTGPU_INLINE static __m256i codes(FloatLanes values) {
    return _mm512_maskz_cvtps_ph(kAllLanes, values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  FASTGPU_INLINE static void store_any_nan(uint16_t* to, FloatLanes values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), codes(values));
  }
  FASTGPU_INLINE static void store(uint16_t* to, FloatLanes values) {
    const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm256_mask_set1_epi16(codes(values), nan, Float16::kNaN));
  }
};

#else

class NanWatch {
 public:
  FASTGPU_INLINE void observe(FloatLanes a, FloatLanes b) {
    nan_ = _mm256_or_ps(nan_, _mm256_cmp_ps(a, b, _CMP_UNORD_Q));
  }
  FASTGPU_INLINE bool saw_nan() const { return _mm256_movemask_ps(nan_) != 0; }

 private:
  __m256 nan_ = _mm256_setzero_ps();
};

template <>
struct InOrder<Float16> {
  FASTGPU_INLINE static FloatLanes load(const uint16_t* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  FASTGPU_INLINE static void store_any_nan(uint16_t* to, FloatLanes values) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  FASTGPU_INLINE static void store(uint16_t* to, FloatLanes values) {
    // The canonical NaN of fp32 narrows to the canonical NaN of float16.
    const __m256 nan = _mm256_set1_ps(float_of(kFloatInfinity | kFloatQuiet));
    store_any_nan(to, _mm256_blendv_ps(values, nan, _mm256_cmp_ps(values, values, _CMP_UNORD_Q)));
  }
};

#endif

template <>
struct Packed<Float16> {
  using Storage = uint16_t;
  using Watch = NanWatch;
  static constexpr std::size_t kParts = 2;
  static constexpr std::size_t kCount = kParts * kLanes;
  struct Value {
    FloatLanes part[kParts];
  };
  FASTGPU_INLINE static Value load(const Storage* from) {
    return {{InOrder<Float16>::load(from), InOrder<Float16>::load(from + kLanes)}};
  }
  FASTGPU_INLINE static void store(Storage* to, const Value& value, Watch& watch) {
    watch.observe(value.part[0], value.part[1]);
    InOrder<Float16>::store_any_nan(to, value.part[0]);
    InOrder<Float16>::store_any_nan(to + kLanes, value.part[1]);
  }
  // a * 1 + b, which rounds like a + b. The conversions already occupy the execution units that
  // plain additions would use.
  FASTGPU_INLINE static FloatLanes sum(FloatLanes a, FloatLanes b) {
#if defined(FASTGPU_AVX512)
    return _mm512_fmadd_ps(a, _mm512_set1_ps(1.0F), b);
#else
    return _mm256_fmadd_ps(a, _mm256_set1_ps(1.0F), b);
#endif
  }
};

// A bfloat16 is the upper half of an fp32 number; zeros in the lower half widen it.
template <>
struct Packed<BFloat16> {
  using Storage = uint16_t;
  using Watch = NanWatch;
  static constexpr std::size_t kParts = 2;
  static constexpr std::size_t kCount = kParts * kLanes;
  struct Value {
    FloatLanes part[kParts];
  };
  FASTGPU_INLINE static FloatLanes sum(FloatLanes a, FloatLanes b) { return a + b; }

#if defined(FASTGPU_AVX512)

  // Part 0 has the lower and part 1 the upper four numbers of each 16 bytes. Interleaving them with
  // zeros can use more of the CPU's execution units than shifting them.
  FASTGPU_INLINE static Value load(const Storage* from) {
    __m512i codes = _mm512_loadu_si512(from);
    // Forces a single load. gcc would make it a memory operand of both instructions, and two reads
    // of a line that is still on its way from L3 take longer than one.
    asm("" : "+v"(codes));
    const __m512i zero = _mm512_setzero_si512();
    return {
        {(FloatLanes)_mm512_maskz_unpacklo_epi16(kAllHalves, zero, codes),
         (FloatLanes)_mm512_maskz_unpackhi_epi16(kAllHalves, zero, codes) }};
  }
  FASTGPU_INLINE static void store(Storage* to, const Value& value, Watch& watch) {
    watch.observe(value.part[0], value.part[1]);
    _mm512_storeu_si512(to, _mm512_permutex2var_epi16(rounded(value.part[0]), upper_halves(),
                                                      rounded(value.part[1])));
  }

 private:
  // bits + 0x7fff + the last kept bit, in two instructions: the second multiplies the bytes 0xff,
  // 0xbf and the last kept bit by 127, 2 and 1 and adds the products to `bits`.
  FASTGPU_INLINE static __m512i rounded(FloatLanes value) {
    const __m512i bits = (__m512i)value;
    constexpr int kMaskAndOr = 0xea;  // (a & b) | c
    const __m512i bytes = _mm512_ternarylogic_epi32(bits, _mm512_set1_epi32(0x00010000),
                                                    _mm512_set1_epi32(0x0000bfff), kMaskAndOr);
    return _mm512_dpbusd_epi32(bits, bytes, _mm512_set1_epi32(0x0001027f));
  }
  // The indices that select the upper halves of two registers, in the order that load() expects.
  FASTGPU_INLINE static __m512i upper_halves() {
    typedef uint16_t Halves __attribute__((vector_size(64)));
    return (__m512i)Halves{1,  3,  5,  7,  33, 35, 37, 39, 9,  11, 13, 15, 41, 43, 45, 47,
                           17, 19, 21, 23, 49, 51, 53, 55, 25, 27, 29, 31, 57, 59, 61, 63};
  }

#else

  // Part 0 has the numbers in the lower, part 1 those in the upper half of each word.
  FASTGPU_INLINE static Value load(const Storage* from) {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000));
    return {{(FloatLanes)_mm256_slli_epi32(codes, 16), (FloatLanes)_mm256_and_si256(codes, upper)}};
  }
  // Rounds both parts at once. `kept` has the upper halves, `cut` the lower ones. A number rounds
  // up if cut + 0x7ffe + odd + 1 carries, which is bit 15 of the rounding average of `cut` and
  // 0x7ffe + odd.
  FASTGPU_INLINE static void store(Storage* to, const Value& value, Watch& watch) {
    watch.observe(value.part[0], value.part[1]);
    const __m256i first = (__m256i)value.part[0];
    const __m256i second = (__m256i)value.part[1];
    constexpr int kOddHalves = 0xaa;
    const __m256i kept = _mm256_blend_epi16(_mm256_srli_epi32(first, 16), second, kOddHalves);
    const __m256i cut = _mm256_blend_epi16(first, _mm256_slli_epi32(second, 16), kOddHalves);
    const __m256i odd = _mm256_and_si256(kept, _mm256_set1_epi16(1));
    const __m256i up = _mm256_avg_epu16(cut, _mm256_or_si256(odd, _mm256_set1_epi16(0x7ffe)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm256_add_epi16(kept, _mm256_srli_epi16(up, 15)));
  }

#endif
};

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
