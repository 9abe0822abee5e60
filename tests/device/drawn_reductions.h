// The reductions of draw_case(). Every kernel takes time to compile, so that tests make these only.
//
// Threading: pure functions.
#pragma once

#include <type_traits>

#include "kernels/cuda/reduce.h"

namespace fastgpu::test {

template <typename Element, typename Op>
inline constexpr bool kIsDrawn =
    std::is_same_v<Op, Sum> &&
    (std::is_same_v<Element, Real<float>> || std::is_same_v<Element, Short<BFloat16>> ||
     std::is_same_v<Element, Short<Float16>> || std::is_same_v<Element, Integer<uint32_t>> ||
     std::is_same_v<Element, Integer<uint64_t>>);
template <>
inline constexpr bool kIsDrawn<Real<float>, Max> = true;
template <>
inline constexpr bool kIsDrawn<Integer<uint8_t>, BitOr> = true;
template <>
inline constexpr bool kIsDrawn<Integer<uint8_t>, BitXor> = true;

}  // namespace fastgpu::test
