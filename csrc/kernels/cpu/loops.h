// The loops over arrays, the same for every instruction set. A file defines FASTGPU_ISA, includes
// this, and puts find_reduce, scale, widen and narrow into its Variant; its compiler flags do the
// rest. See short_float.h for why nothing here may call an inline function of std.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "kernels/arithmetic.h"
#include "kernels/cpu/lanes.h"

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
  FASTGPU_INDEPENDENT
  for (std::size_t i = 0; i < count; ++i)
    target[i] = Element::store(Op::apply(Element::load(target[i]), Element::load(source[i])));
}

template <typename Format, typename Op>
FASTGPU_INLINE void reduce_block(typename Format::Storage* target,
                                 const typename Format::Storage* source,
                                 typename Packed<Format>::Watch& watch) {
  using P = Packed<Format>;
  auto value = P::load(target);
  const auto other = P::load(source);
  for (std::size_t k = 0; k < P::kParts; ++k) {
    if constexpr (std::is_same_v<Op, Sum>) {
      value.part[k] = P::sum(value.part[k], other.part[k]);
    } else {
      value.part[k] = Op::apply(value.part[k], other.part[k]);
    }
  }
  P::store(target, value, watch);
}

// Makes every NaN the one of the format.
template <typename Format>
void unify(typename Format::Storage* codes, std::size_t count) {
  constexpr uint32_t kMagnitude = 0x7fff;
  for (std::size_t i = 0; i < count; ++i)
    codes[i] = (codes[i] & kMagnitude) > Format::kInfinity ? Format::kNaN : codes[i];
}

template <typename Format>
FASTGPU_INLINE void unify_if(bool saw_nan, typename Format::Storage* codes, std::size_t count) {
  if constexpr (!std::is_same_v<typename Packed<Format>::Watch, NoWatch>) {
    if (saw_nan) unify<Format>(codes, count);
  }
}

// Fewer elements than a block, without touching what lies around them.
template <typename Format, typename Op>
void reduce_part(typename Format::Storage* target, const typename Format::Storage* source,
                 std::size_t count) {
  using Storage = typename Format::Storage;
  constexpr std::size_t kBlock = Packed<Format>::kCount;
  Storage padded_target[kBlock] = {};
  Storage padded_source[kBlock] = {};
  __builtin_memcpy(padded_target, target, count * sizeof(Storage));
  __builtin_memcpy(padded_source, source, count * sizeof(Storage));
  typename Packed<Format>::Watch watch;
  reduce_block<Format, Op>(padded_target, padded_source, watch);
  unify_if<Format>(watch.saw_nan(), padded_target, kBlock);
  __builtin_memcpy(target, padded_target, count * sizeof(Storage));
}

// A long target is first brought to a register boundary: stores that straddle cache lines halve the
// speed of AVX-512 in memory.
template <typename Format, typename Op>
void reduce_short(std::byte* target_bytes, const std::byte* source_bytes, std::size_t count) {
  using Storage = typename Format::Storage;
  constexpr std::size_t kBlock = Packed<Format>::kCount;
  constexpr std::size_t kLong = 16 * kBlock;
  auto* target = reinterpret_cast<Storage*>(target_bytes);
  const auto* source = reinterpret_cast<const Storage*>(source_bytes);
  std::size_t i = 0;
  const std::size_t past = reinterpret_cast<std::uintptr_t>(target) % kRegisterBytes;
  if (count >= kLong && past != 0) {
    i = (kRegisterBytes - past) / sizeof(Storage);
    reduce_part<Format, Op>(target, source, i);
  }
  typename Packed<Format>::Watch watch;
  typename Packed<Format>::Watch second_watch;
  const std::size_t first = i;
  for (; i + 2 * kBlock <= count; i += 2 * kBlock) {
    reduce_block<Format, Op>(target + i, source + i, watch);
    reduce_block<Format, Op>(target + i + kBlock, source + i + kBlock, second_watch);
  }
  if (i + kBlock <= count) {
    reduce_block<Format, Op>(target + i, source + i, watch);
    i += kBlock;
  }
  unify_if<Format>(watch.saw_nan() | second_watch.saw_nan(), target + first, i - first);
  if (i < count) reduce_part<Format, Op>(target + i, source + i, count - i);
}

// Adding complex numbers is adding twice as many real ones.
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

template <typename Number>
void scale_floating(std::byte* bytes, std::size_t count, Number factor) {
  auto* data = reinterpret_cast<Number*>(bytes);
  for (std::size_t i = 0; i < count; ++i) data[i] = Real<Number>::store(data[i] * factor);
}

template <typename Format>
FASTGPU_INLINE void scale_block(typename Format::Storage* data, float factor,
                                typename Packed<Format>::Watch& watch) {
  using P = Packed<Format>;
  auto value = P::load(data);
  for (std::size_t k = 0; k < P::kParts; ++k) value.part[k] *= factor;
  P::store(data, value, watch);
}

template <typename Format>
void scale_short(std::byte* bytes, std::size_t count, float any_factor) {
  using Storage = typename Format::Storage;
  constexpr std::size_t kBlock = Packed<Format>::kCount;
  const float factor = Real<float>::store(any_factor);  // a NaN that NanWatch may meet
  auto* data = reinterpret_cast<Storage*>(bytes);
  typename Packed<Format>::Watch watch;
  typename Packed<Format>::Watch second_watch;
  std::size_t i = 0;
  for (; i + 2 * kBlock <= count; i += 2 * kBlock) {
    scale_block<Format>(data + i, factor, watch);
    scale_block<Format>(data + i + kBlock, factor, second_watch);
  }
  if (i + kBlock <= count) {
    scale_block<Format>(data + i, factor, watch);
    i += kBlock;
  }
  unify_if<Format>(watch.saw_nan() | second_watch.saw_nan(), data, i);
  const std::size_t rest_bytes = (count - i) * sizeof(Storage);
  if (rest_bytes == 0) return;
  Storage padded[kBlock] = {};
  __builtin_memcpy(padded, data + i, rest_bytes);
  scale_block<Format>(padded, factor, watch);
  unify_if<Format>(watch.saw_nan(), padded, kBlock);
  __builtin_memcpy(data + i, padded, rest_bytes);
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

template <typename Format>
void widen_all(const std::byte* bytes, float* target, std::size_t count) {
  using Storage = typename Format::Storage;
  const auto* source = reinterpret_cast<const Storage*>(bytes);
  std::size_t i = 0;
  FloatLanes values;
  for (; i + kLanes <= count; i += kLanes) {
    values = InOrder<Format>::load(source + i);
    __builtin_memcpy(target + i, &values, sizeof(values));
  }
  Storage padded[kLanes] = {};
  __builtin_memcpy(padded, source + i, (count - i) * sizeof(Storage));
  values = InOrder<Format>::load(padded);
  __builtin_memcpy(target + i, &values, (count - i) * sizeof(float));
}

template <typename Format>
void narrow_all(const float* source, std::byte* bytes, std::size_t count) {
  using Storage = typename Format::Storage;
  auto* target = reinterpret_cast<Storage*>(bytes);
  std::size_t i = 0;
  FloatLanes values{};
  for (; i + kLanes <= count; i += kLanes) {
    __builtin_memcpy(&values, source + i, sizeof(values));
    InOrder<Format>::store(target + i, values);
  }
  __builtin_memcpy(&values, source + i, (count - i) * sizeof(float));
  Storage padded[kLanes];
  InOrder<Format>::store(padded, values);
  __builtin_memcpy(target + i, padded, (count - i) * sizeof(Storage));
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
