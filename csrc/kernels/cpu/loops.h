// The loops over arrays, the same for every instruction set. A file defines FASTGPU_ISA, includes
// this, and puts find_reduce, scale, widen and narrow into its Variant; its compiler flags do the
// rest. See short_float.h for why nothing here may call an inline function of std.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "kernels/arithmetic.h"
#include "kernels/cpu/block.h"

// Arrays that do not overlap, or are the same, carry nothing from one turn of a loop to the next.
#if defined(__clang__)
#define FASTGPU_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define FASTGPU_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace fastgpu {
inline namespace FASTGPU_ISA {

template <typename Element, typename Op>
void reduce(std::byte* target_bytes, const std::byte* source_bytes, std::size_t count) {
  using Storage = typename Element::Storage;
  auto* target = reinterpret_cast<Storage*>(target_bytes);
  const auto* source = reinterpret_cast<const Storage*>(source_bytes);
  using B = Block<Element>;
  if constexpr (B::kLanes != 0) {
    std::size_t i = 0;
    for (; i + B::kLanes <= count; i += B::kLanes)
      B::store(target + i, Op::apply(B::load(target + i), B::load(source + i)));
    const std::size_t rest = count - i;
    if (rest == 0) return;
    B::store_part(target + i,
                  Op::apply(B::load_part(target + i, rest), B::load_part(source + i, rest)), rest);
  } else {
    FASTGPU_INDEPENDENT
    for (std::size_t i = 0; i < count; ++i)
      target[i] = Element::store(Op::apply(Element::load(target[i]), Element::load(source[i])));
  }
}

// Adding complex numbers is adding twice as many real ones.
template <typename Number>
void add_complex(std::byte* target, const std::byte* source, std::size_t count) {
  reduce<Real<Number>, Sum>(target, source, 2 * count);
}

template <typename Element>
ReduceKernel find_floating(ReduceOp reduce_op) {
  switch (reduce_op) {
    case ReduceOp::kSum:
    case ReduceOp::kAvg:
    case ReduceOp::kPremulSum:
      return reduce<Element, Sum>;
    case ReduceOp::kProduct:
      return reduce<Element, Product>;
    case ReduceOp::kMin:
      return reduce<Element, Min>;
    case ReduceOp::kMax:
      return reduce<Element, Max>;
    default:
      return nullptr;
  }
}

template <typename Number>
ReduceKernel find_complex(ReduceOp reduce_op) {
  switch (reduce_op) {
    case ReduceOp::kSum:
    case ReduceOp::kAvg:
    case ReduceOp::kPremulSum:
      return add_complex<Number>;
    case ReduceOp::kProduct:
      return reduce<Complex<Number>, Product>;
    default:
      return nullptr;
  }
}

// Bits do not depend on the sign, nor do sums and products that wrap around: the unsigned loop
// serves both. Only MIN and MAX differ.
template <typename Number, typename Unsigned>
ReduceKernel find_integer(ReduceOp reduce_op) {
  switch (reduce_op) {
    case ReduceOp::kSum:
    case ReduceOp::kAvg:
      return reduce<Integer<Unsigned>, Sum>;
    case ReduceOp::kProduct:
      return reduce<Integer<Unsigned>, Product>;
    case ReduceOp::kMin:
      return reduce<Integer<Number>, Min>;
    case ReduceOp::kMax:
      return reduce<Integer<Number>, Max>;
    case ReduceOp::kBand:
      return reduce<Integer<Unsigned>, BitAnd>;
    case ReduceOp::kBor:
      return reduce<Integer<Unsigned>, BitOr>;
    case ReduceOp::kBxor:
      return reduce<Integer<Unsigned>, BitXor>;
    default:
      return nullptr;
  }
}

inline ReduceKernel find_bool(ReduceOp reduce_op) {
  switch (reduce_op) {
    case ReduceOp::kSum:
    case ReduceOp::kMax:
    case ReduceOp::kBor:
      return reduce<Bool, BitOr>;
    case ReduceOp::kProduct:
    case ReduceOp::kMin:
    case ReduceOp::kBand:
      return reduce<Bool, BitAnd>;
    case ReduceOp::kBxor:
      return reduce<Bool, BitXor>;
    default:
      return nullptr;
  }
}

inline ReduceKernel find_reduce(DType dtype, ReduceOp reduce_op) {
  switch (dtype) {
    case DType::kFloat64:
      return find_floating<Real<double>>(reduce_op);
    case DType::kFloat32:
      return find_floating<Real<float>>(reduce_op);
    case DType::kFloat16:
      return find_floating<Short<Float16>>(reduce_op);
    case DType::kBFloat16:
      return find_floating<Short<BFloat16>>(reduce_op);
    case DType::kFloat8E4M3:
      return find_floating<Short<Float8E4M3>>(reduce_op);
    case DType::kFloat8E5M2:
      return find_floating<Short<Float8E5M2>>(reduce_op);
    case DType::kInt8:
      return find_integer<int8_t, uint8_t>(reduce_op);
    case DType::kUInt8:
      return find_integer<uint8_t, uint8_t>(reduce_op);
    case DType::kInt16:
      return find_integer<int16_t, uint16_t>(reduce_op);
    case DType::kUInt16:
      return find_integer<uint16_t, uint16_t>(reduce_op);
    case DType::kInt32:
      return find_integer<int32_t, uint32_t>(reduce_op);
    case DType::kUInt32:
      return find_integer<uint32_t, uint32_t>(reduce_op);
    case DType::kInt64:
      return find_integer<int64_t, uint64_t>(reduce_op);
    case DType::kUInt64:
      return find_integer<uint64_t, uint64_t>(reduce_op);
    case DType::kBool:
      return find_bool(reduce_op);
    case DType::kComplex64:
      return find_complex<float>(reduce_op);
    case DType::kComplex128:
      return find_complex<double>(reduce_op);
  }
  return nullptr;
}

template <typename Element, typename Factor>
void scale_floating(std::byte* bytes, std::size_t count, Factor factor) {
  auto* data = reinterpret_cast<typename Element::Storage*>(bytes);
  using B = Block<Element>;
  if constexpr (B::kLanes != 0) {
    const auto factors = B::fill(factor);
    std::size_t i = 0;
    for (; i + B::kLanes <= count; i += B::kLanes) B::store(data + i, B::load(data + i) * factors);
    const std::size_t rest = count - i;
    if (rest != 0) B::store_part(data + i, B::load_part(data + i, rest) * factors, rest);
  } else {
    for (std::size_t i = 0; i < count; ++i)
      data[i] = Element::store(Element::load(data[i]) * factor);
  }
}

template <typename Number>
void scale_integer(std::byte* bytes, std::size_t count, double factor) {
  auto* data = reinterpret_cast<Number*>(bytes);
  const auto divisor = static_cast<uint64_t>(1 / factor + 0.5);
  for (std::size_t i = 0; i < count; ++i) data[i] = divide(data[i], divisor);
}

inline void scale(std::byte* data, std::size_t count, DType dtype, double factor) {
  const auto factor32 = static_cast<float>(factor);
  switch (dtype) {
    case DType::kFloat64:
      return scale_floating<Real<double>>(data, count, factor);
    case DType::kFloat32:
      return scale_floating<Real<float>>(data, count, factor32);
    case DType::kFloat16:
      return scale_floating<Short<Float16>>(data, count, factor32);
    case DType::kBFloat16:
      return scale_floating<Short<BFloat16>>(data, count, factor32);
    case DType::kFloat8E4M3:
      return scale_floating<Short<Float8E4M3>>(data, count, factor32);
    case DType::kFloat8E5M2:
      return scale_floating<Short<Float8E5M2>>(data, count, factor32);
    case DType::kInt8:
      return scale_integer<int8_t>(data, count, factor);
    case DType::kUInt8:
      return scale_integer<uint8_t>(data, count, factor);
    case DType::kInt16:
      return scale_integer<int16_t>(data, count, factor);
    case DType::kUInt16:
      return scale_integer<uint16_t>(data, count, factor);
    case DType::kInt32:
      return scale_integer<int32_t>(data, count, factor);
    case DType::kUInt32:
      return scale_integer<uint32_t>(data, count, factor);
    case DType::kInt64:
      return scale_integer<int64_t>(data, count, factor);
    case DType::kUInt64:
      return scale_integer<uint64_t>(data, count, factor);
    case DType::kComplex64:
      return scale_floating<Real<float>>(data, 2 * count, factor32);
    case DType::kComplex128:
      return scale_floating<Real<double>>(data, 2 * count, factor);
    case DType::kBool:
      return;
  }
}

template <typename Format>
void widen_all(const std::byte* bytes, float* target, std::size_t count) {
  const auto* source = reinterpret_cast<const typename Format::Storage*>(bytes);
  using B = Block<Short<Format>>;
  if constexpr (B::kLanes != 0) {
    std::size_t i = 0;
    for (; i + B::kLanes <= count; i += B::kLanes) {
      const auto values = B::load(source + i);
      __builtin_memcpy(target + i, &values, sizeof(values));
    }
    const auto values = B::load_part(source + i, count - i);
    __builtin_memcpy(target + i, &values, (count - i) * sizeof(float));
  } else {
    FASTGPU_INDEPENDENT
    for (std::size_t i = 0; i < count; ++i) target[i] = widen<Format>(source[i]);
  }
}

template <typename Format>
void narrow_all(const float* source, std::byte* bytes, std::size_t count) {
  auto* target = reinterpret_cast<typename Format::Storage*>(bytes);
  using B = Block<Short<Format>>;
  if constexpr (B::kLanes != 0) {
    std::size_t i = 0;
    typename B::Value values{};
    for (; i + B::kLanes <= count; i += B::kLanes) {
      __builtin_memcpy(&values, source + i, sizeof(values));
      B::store(target + i, values);
    }
    __builtin_memcpy(&values, source + i, (count - i) * sizeof(float));
    B::store_part(target + i, values, count - i);
  } else {
    FASTGPU_INDEPENDENT
    for (std::size_t i = 0; i < count; ++i) target[i] = narrow<Format>(source[i]);
  }
}

inline void widen_array(const std::byte* source, DType dtype, float* target, std::size_t count) {
  switch (dtype) {
    case DType::kFloat16:
      return widen_all<Float16>(source, target, count);
    case DType::kBFloat16:
      return widen_all<BFloat16>(source, target, count);
    case DType::kFloat8E4M3:
      return widen_all<Float8E4M3>(source, target, count);
    case DType::kFloat8E5M2:
      return widen_all<Float8E5M2>(source, target, count);
    default:
      return;
  }
}

inline void narrow_array(const float* source, std::byte* target, DType dtype, std::size_t count) {
  switch (dtype) {
    case DType::kFloat16:
      return narrow_all<Float16>(source, target, count);
    case DType::kBFloat16:
      return narrow_all<BFloat16>(source, target, count);
    case DType::kFloat8E4M3:
      return narrow_all<Float8E4M3>(source, target, count);
    case DType::kFloat8E5M2:
      return narrow_all<Float8E5M2>(source, target, count);
    default:
      return;
  }
}

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
