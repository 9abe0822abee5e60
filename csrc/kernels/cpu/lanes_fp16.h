// float16 by the register as it is, where the CPU computes with it (AVX512-FP16): a sum is one
// instruction for 32 numbers. The bits are those of fp32 rounded once: fp32 has 24 bits, two more
// than twice float16's 11, and then rounding twice is rounding once (S. A. Figueroa, "When is
// double rounding innocuous?", 1995). Subnormals count, whatever the thread's MXCSR says of fp32's.
// Included by lanes.h, where the instruction set allows.
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

  // As NanWatch: two of them take turns.
  class Watch {
   public:
    FASTGPU_INLINE void look(Halves value) {
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
    watch.look(value.part[0]);
    _mm512_storeu_ph(to, (__m512h)value.part[0]);
  }
};

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
