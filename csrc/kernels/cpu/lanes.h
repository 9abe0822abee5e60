// Loads and stores of short floats by SIMD register. The conversions are those of short_float.h on
// compiler vectors; lanes_x86.h replaces some of them by instructions for float16 and bfloat16.
//
//   InOrder<Format>   One register of fp32 numbers, in the order of memory.
//   Packed<Format>    All numbers of one register of codes, as fp32, in kParts registers. A 32-bit
//                     word holds 2 or 4 codes. Part k has the k-th code of every word, so no code
//                     moves between lanes. Reductions do not depend on the order.
//   Reduced<Format>   The form in which a reduction computes: Packed, unless the CPU computes in
//                     the format itself.
//
// Included once by the file of each instruction set; see FASTGPU_ISA in short_float.h.
#pragma once

#include <cstddef>

#include "kernels/arithmetic.h"

namespace fastgpu {
inline namespace FASTGPU_ISA {

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512BW__)
#define FASTGPU_AVX512 1
inline constexpr std::size_t kRegisterBytes = 64;
#elif defined(__AVX2__)
inline constexpr std::size_t kRegisterBytes = 32;
#else
inline constexpr std::size_t kRegisterBytes = 16;
#endif
inline constexpr std::size_t kLanes = kRegisterBytes / sizeof(float);

typedef float FloatLanes __attribute__((vector_size(kRegisterBytes)));
typedef uint32_t WordLanes __attribute__((vector_size(kRegisterBytes)));
typedef int32_t IntLanes __attribute__((vector_size(kRegisterBytes)));

struct ManyLanes {
  using Words = WordLanes;
  using Floats = FloatLanes;
  FASTGPU_INLINE static Words bits(Floats values) { return __builtin_bit_cast(Words, values); }
  FASTGPU_INLINE static Floats floats(Words bits) { return __builtin_bit_cast(Floats, bits); }
  FASTGPU_INLINE static Floats to_float(Words small) {
    return __builtin_convertvector(__builtin_bit_cast(IntLanes, small), Floats);
  }
};

template <typename Format>
struct InOrder {
  using Storage = typename Format::Storage;
  typedef Storage Codes __attribute__((vector_size(kLanes * sizeof(Storage))));

  FASTGPU_INLINE static FloatLanes load(const Storage* from) {
    Codes codes;
    __builtin_memcpy(&codes, from, sizeof(codes));
    return widen_lanes<Format, ManyLanes>(__builtin_convertvector(codes, WordLanes));
  }
  FASTGPU_INLINE static void store(Storage* to, FloatLanes values) {
    const Codes codes = __builtin_convertvector(narrow_lanes<Format, ManyLanes>(values), Codes);
    __builtin_memcpy(to, &codes, sizeof(codes));
  }
};

// The NanWatch of a Packed whose store() already writes the canonical NaN.
struct NoWatch {
  FASTGPU_INLINE static constexpr bool saw_nan() { return false; }
};

template <typename Format>
struct Packed {
  using Storage = typename Format::Storage;
  using Watch = NoWatch;
  static constexpr std::size_t kParts = sizeof(uint32_t) / sizeof(Storage);
  static constexpr std::size_t kCount = kParts * kLanes;  // elements
  struct Value {
    FloatLanes part[kParts];
  };
  FASTGPU_INLINE static FloatLanes sum(FloatLanes a, FloatLanes b) { return a + b; }

  FASTGPU_INLINE static Value load(const Storage* from) {
    constexpr uint32_t kCode = (1u << (8 * sizeof(Storage))) - 1;
    WordLanes words;
    __builtin_memcpy(&words, from, sizeof(words));
    Value value;
    for (std::size_t k = 0; k < kParts; ++k)
      value.part[k] = widen_lanes<Format, ManyLanes>((words >> shift(k)) & kCode);
    return value;
  }
  FASTGPU_INLINE static void store(Storage* to, const Value& value, Watch&) {
    WordLanes words{};
    for (std::size_t k = 0; k < kParts; ++k)
      words |= narrow_lanes<Format, ManyLanes>(value.part[k]) << shift(k);
    __builtin_memcpy(to, &words, sizeof(words));
  }

 private:
  FASTGPU_INLINE static constexpr uint32_t shift(std::size_t part) {
    return static_cast<uint32_t>(8 * sizeof(Storage) * part);
  }
};

#if !defined(__AVX2__)

// A bfloat16 is the upper half of an fp32 number. The code in the upper half of a word needs no
// shift in load() and store().
template <>
struct Packed<BFloat16> {
  using Storage = uint16_t;
  using Watch = NoWatch;
  static constexpr std::size_t kParts = 2;
  static constexpr std::size_t kCount = kParts * kLanes;
  static constexpr uint32_t kUpper = 0xffff0000;
  struct Value {
    FloatLanes part[kParts];
  };
  FASTGPU_INLINE static FloatLanes sum(FloatLanes a, FloatLanes b) { return a + b; }
  FASTGPU_INLINE static Value load(const Storage* from) {
    WordLanes words;
    __builtin_memcpy(&words, from, sizeof(words));
    return {{ManyLanes::floats(words << 16), ManyLanes::floats(words & kUpper)}};
  }
  FASTGPU_INLINE static void store(Storage* to, const Value& value, Watch&) {
    const WordLanes words = (rounded(value.part[0]) >> 16) | (rounded(value.part[1]) & kUpper);
    __builtin_memcpy(to, &words, sizeof(words));
  }

 private:
  // Like narrow_lanes, without the shift: the code is in the upper half.
  FASTGPU_INLINE static WordLanes rounded(FloatLanes value) {
    const WordLanes bits = ManyLanes::bits(value);
    const WordLanes nan = WordLanes{} + (BFloat16::kNaN << 16);
    return value == value ? bits + 0x7fff + ((bits >> 16) & 1) : nan;
  }
};

#endif

template <typename Format>
struct Reduced : Packed<Format> {};

}  // namespace FASTGPU_ISA
}  // namespace fastgpu

#if defined(__AVX2__)
#include "kernels/cpu/lanes_x86.h"
#endif
#if defined(__AVX512FP16__)
#include "kernels/cpu/lanes_fp16.h"
#endif
