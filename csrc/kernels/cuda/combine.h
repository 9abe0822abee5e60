// One operation on elements and on packs of them, with the bits of kernels/arithmetic.h.
//
// GPUs convert two floats to bfloat16 or float16 by one instruction, where the portable conversions
// of short_float.h take 10 to 40. It rounds alike; only its NaN differs, and is replaced here.
//
// Threading: device code; any thread.
#pragma once

#include <type_traits>

#include "kernels/arithmetic.h"
#include "kernels/cuda/packs.h"

namespace fastgpu::device {

template <typename Element, typename Op>
FASTGPU_DEVICE typename Element::Storage combine_elements(typename Element::Storage a,
                                                          typename Element::Storage b) {
  return Element::store(Op::apply(Element::load(a), Element::load(b)));
}

template <typename Op>
inline constexpr bool kIsBitwise =
    std::is_same_v<Op, BitAnd> || std::is_same_v<Op, BitOr> || std::is_same_v<Op, BitXor>;

#if defined(FASTGPU_GPU)

template <typename Element>
inline constexpr bool kHasConversion =
    std::is_same_v<Element, Short<BFloat16>> || std::is_same_v<Element, Short<Float16>>;

template <typename Format>
FASTGPU_DEVICE float widen_half(uint32_t pair, bool upper) {
  if constexpr (std::is_same_v<Format, BFloat16>) {
    return float_of(upper ? pair & 0xffff0000 : pair << 16);
  } else {
    return simt::from_float16(upper ? pair >> 16 : pair);
  }
}

template <typename Format>
FASTGPU_DEVICE uint32_t narrow_pair(float lower, float upper) {
  uint32_t pair;
  if constexpr (std::is_same_v<Format, BFloat16>) {
    pair = simt::to_bfloat16_pair(lower, upper);
  } else {
    pair = simt::to_float16_pair(lower, upper);
  }
  pair = lower != lower ? (pair & 0xffff0000) | Format::kNaN : pair;
  return upper != upper ? (pair & 0x0000ffff) | Format::kNaN << 16 : pair;
}

template <typename Op, typename Format>
FASTGPU_DEVICE uint32_t combine_pairs(uint32_t a, uint32_t b, Short<Format>) {
  return narrow_pair<Format>(Op::apply(widen_half<Format>(a, false), widen_half<Format>(b, false)),
                             Op::apply(widen_half<Format>(a, true), widen_half<Format>(b, true)));
}

template <typename Format>
FASTGPU_DEVICE uint32_t scale_pairs(uint32_t pair, float factor, Short<Format>) {
  return narrow_pair<Format>(widen_half<Format>(pair, false) * factor,
                             widen_half<Format>(pair, true) * factor);
}

#else

template <typename Element>
inline constexpr bool kHasConversion = false;

#endif

// `Word` holds one or more elements: uint32_t or Pack.
template <typename Element, typename Op, typename Word>
FASTGPU_DEVICE Word combine_all(const Word& a, const Word& b) {
  using Storage = typename Element::Storage;
  constexpr int kElements = sizeof(Word) / sizeof(Storage);
  struct Elements {
    Storage at[kElements];
  };
  auto x = __builtin_bit_cast(Elements, a);
  const auto y = __builtin_bit_cast(Elements, b);
  FASTGPU_UNROLL
  for (int i = 0; i < kElements; ++i) x.at[i] = combine_elements<Element, Op>(x.at[i], y.at[i]);
  return __builtin_bit_cast(Word, x);
}

// The elements of a 4-byte word; Element has at most 4 bytes.
template <typename Element, typename Op>
FASTGPU_DEVICE uint32_t combine_word(uint32_t a, uint32_t b) {
  if constexpr (kIsBitwise<Op> && !std::is_same_v<Element, Bool>) {
    return Op::apply(a, b);
  } else if constexpr (kHasConversion<Element>) {
#if defined(FASTGPU_GPU)
    return combine_pairs<Op>(a, b, Element{});
#endif
  } else {
    return combine_all<Element, Op>(a, b);
  }
}

template <typename Element, typename Op>
FASTGPU_DEVICE Pack combine_packs(const Pack& a, const Pack& b) {
  if constexpr (sizeof(typename Element::Storage) > 4) {
    return combine_all<Element, Op>(a, b);
  } else {
    Pack result;
    FASTGPU_UNROLL
    for (int i = 0; i < 4; ++i) result.word[i] = combine_word<Element, Op>(a.word[i], b.word[i]);
    return result;
  }
}

// Whether results may be multiplied by a factor: sums of floating-point numbers. As with scale() of
// the CPU, the sum is rounded, and then its product with the factor. Integers are divided by
// divide.h.
template <typename Element, typename Op>
inline constexpr bool kScales = false;
template <typename Number>
inline constexpr bool kScales<Real<Number>, Sum> = true;
template <typename Format>
inline constexpr bool kScales<Short<Format>, Sum> = true;

template <typename Element>
FASTGPU_DEVICE typename Element::Storage scale_element(typename Element::Storage element,
                                                       typename Element::Value factor) {
  return Element::store(Element::load(element) * factor);
}

template <typename Element>
FASTGPU_DEVICE Pack scale_pack(const Pack& pack, typename Element::Value factor) {
#if defined(FASTGPU_GPU)
  if constexpr (kHasConversion<Element>) {
    Pack result;
    FASTGPU_UNROLL
    for (int i = 0; i < 4; ++i) result.word[i] = scale_pairs(pack.word[i], factor, Element{});
    return result;
  } else
#endif
  {
    using Storage = typename Element::Storage;
    constexpr int kElements = kPackBytes / sizeof(Storage);
    struct Elements {
      Storage at[kElements];
    };
    auto elements = __builtin_bit_cast(Elements, pack);
    FASTGPU_UNROLL
    for (int i = 0; i < kElements; ++i) {
      elements.at[i] = scale_element<Element>(elements.at[i], factor);
    }
    return __builtin_bit_cast(Pack, elements);
  }
}

}  // namespace fastgpu::device
