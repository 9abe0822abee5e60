// float16 arithmetic in the CPU (AVX512-FP16): one instruction adds 32 numbers.
//
// The results equal those in fp32 rounded to float16. fp32 has 24 significant bits, which is
// 2 * 11 + 2 for float16's 11; then rounding twice gives the same as rounding once (S. A. Figueroa,
// "When is double rounding innocuous?", 1995). Subnormals are kept, even if the thread flushes
// those of fp32.
//
// Included by lanes.h if the instruction set has it.
#pragma once

#include <immintrin.h>

namespace fastgpu {
inline namespace FASTGPU_ISA {

template <>
struct Reduced<Float16> {
  using Storage = uint16_t;
  typedef _Float16 Halves __attribute__((vector_size(kRegisterBytes)));
  static constexpr std::size_t kParts = 1;
  static constexpr std::size_t kCount = kRegisterBytes / sizeof(Storage);
  struct Value {
    Halves part[kParts];
  };

  // Like NanWatch.
  class Watch {
   public:
    FASTGPU_INLINE void observe(Halves value) {
      numbers_ = _mm512_mask_cmp_ph_mask(numbers_, (__m512h)value, (__m512h)value, _CMP_ORD_Q);
    }
    FASTGPU_INLINE bool saw_nan() const { return numbers_ != kAllHalves; }

   private:
    __mmask32 numbers_ = kAllHalves;
  };

  FASTGPU_INLINE static Halves sum(Halves a, Halves b) { return a + b; }
  FASTGPU_INLINE static Value load(const Storage* from) {
    return {{(Halves)_mm512_loadu_ph(from)}};
  }
  FASTGPU_INLINE static void store(Storage* to, const Value& value, Watch& watch) {
    watch.observe(value.part[0]);
    _mm512_storeu_ph(to, (__m512h)value.part[0]);
  }
};

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
