// The loops over arrays, the same source for every instruction set. A file defines FASTGPU_ISA,
// includes this header, and puts find_reduce, scale, widen and narrow into its Variant; its
// compiler flags select the instructions. See short_float.h for why no inline function of std may
// be called.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/dtype.h"
#include "kernels/arithmetic.h"
#include "kernels/cpu/short_loops.h"
#include "kernels/kernel.h"

// The arrays do not overlap, or are the same, so the iterations of a loop are independent.
#if defined(__clang__)
#define FASTGPU_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define FASTGPU_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace fastgpu {
inline namespace FASTGPU_ISA {

template <typename Element, typename Op, typename Byte = const std::byte>
void reduce(std::byte* target_bytes, Byte* source_bytes, std::size_t count) {
  using Storage = typename Element::Storage;
  using Source = SourceOf<Byte, Storage>;
  auto* target = reinterpret_cast<Storage*>(target_bytes);
  auto* source = reinterpret_cast<Source*>(source_bytes);
  FASTGPU_INDEPENDENT
  for (std::size_t i = 0; i < count; ++i) {
    const Storage result =
        Element::store(Op::apply(Element::load(target[i]), Element::load(source[i])));
    target[i] = result;
    if constexpr (!std::is_const_v<Byte>) source[i] = result;
  }
}

// The sum of complex numbers is the sum of twice as many real ones.
template <typename Number>
void add_complex(std::byte* target, const std::byte* source, std::size_t count) {
  reduce<Real<Number>, Sum>(target, source, 2 * count);
}

template <typename Number>
ReduceKernel find_floating(ReduceOp reduce_op) {
  switch (reduce_op) {
    case ReduceOp::kSum:
    case ReduceOp::kAvg:
    case ReduceOp::kPremulSum:
      return reduce<Real<Number>, Sum>;
    case ReduceOp::kProduct:
      return reduce<Real<Number>, Product>;
    case ReduceOp::kMin:
      return reduce<Real<Number>, Min>;
    case ReduceOp::kMax:
      return reduce<Real<Number>, Max>;
    default:
      return nullptr;
  }
}

template <typename Format>
ReduceKernel find_short(ReduceOp reduce_op) {
  switch (reduce_op) {
    case ReduceOp::kSum:
    case ReduceOp::kAvg:
    case ReduceOp::kPremulSum:
      return reduce_short<Format, Sum>;
    case ReduceOp::kProduct:
      return reduce_short<Format, Product>;
    case ReduceOp::kMin:
      return reduce_short<Format, Min>;
    case ReduceOp::kMax:
      return reduce_short<Format, Max>;
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

// Only MIN and MAX depend on the sign. Sums and products wrap around, so the unsigned loop serves
// signed integers, too.
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
      return find_floating<double>(reduce_op);
    case DType::kFloat32:
      return find_floating<float>(reduce_op);
    case DType::kFloat16:
      return find_short<Float16>(reduce_op);
    case DType::kBFloat16:
      return find_short<BFloat16>(reduce_op);
    case DType::kFloat8E4M3:
      return find_short<Float8E4M3>(reduce_op);
    case DType::kFloat8E5M2:
      return find_short<Float8E5M2>(reduce_op);
    case DType::kFloat8E4M3Fnuz:
      return find_short<Float8E4M3Fnuz>(reduce_op);
    case DType::kFloat8E5M2Fnuz:
      return find_short<Float8E5M2Fnuz>(reduce_op);
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

// Sums of the dtypes of gradients; there is no such loop for anything else.
inline ReduceBothKernel find_reduce_both(DType dtype, ReduceOp reduce_op) {
  if (reduce_op != ReduceOp::kSum && reduce_op != ReduceOp::kAvg &&
      reduce_op != ReduceOp::kPremulSum) {
    return nullptr;
  }
  switch (dtype) {
    case DType::kFloat64:
      return reduce<Real<double>, Sum, std::byte>;
    case DType::kFloat32:
      return reduce<Real<float>, Sum, std::byte>;
    case DType::kFloat16:
      return reduce_short<Float16, Sum, std::byte>;
    case DType::kBFloat16:
      return reduce_short<BFloat16, Sum, std::byte>;
    default:
      return nullptr;
  }
}

template <typename Number>
void scale_floating(std::byte* bytes, std::size_t count, Number factor) {
  auto* data = reinterpret_cast<Number*>(bytes);
  for (std::size_t i = 0; i < count; ++i) data[i] = Real<Number>::store(data[i] * factor);
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
      return scale_floating<double>(data, count, factor);
    case DType::kFloat32:
      return scale_floating<float>(data, count, factor32);
    case DType::kFloat16:
      return scale_short<Float16>(data, count, factor32);
    case DType::kBFloat16:
      return scale_short<BFloat16>(data, count, factor32);
    case DType::kFloat8E4M3:
      return scale_short<Float8E4M3>(data, count, factor32);
    case DType::kFloat8E5M2:
      return scale_short<Float8E5M2>(data, count, factor32);
    case DType::kFloat8E4M3Fnuz:
      return scale_short<Float8E4M3Fnuz>(data, count, factor32);
    case DType::kFloat8E5M2Fnuz:
      return scale_short<Float8E5M2Fnuz>(data, count, factor32);
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
      return scale_floating<float>(data, 2 * count, factor32);
    case DType::kComplex128:
      return scale_floating<double>(data, 2 * count, factor);
    case DType::kBool:
      return;
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
    case DType::kFloat8E4M3Fnuz:
      return widen_all<Float8E4M3Fnuz>(source, target, count);
    case DType::kFloat8E5M2Fnuz:
      return widen_all<Float8E5M2Fnuz>(source, target, count);
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
    case DType::kFloat8E4M3Fnuz:
      return narrow_all<Float8E4M3Fnuz>(source, target, count);
    case DType::kFloat8E5M2Fnuz:
      return narrow_all<Float8E5M2Fnuz>(source, target, count);
    default:
      return;
  }
}

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
