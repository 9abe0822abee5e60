// The loops over arrays of float16, bfloat16 and fp8, on the registers of kernels/cpu/lanes.h. Part
// of kernels/cpu/loops.h; compiled as described there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/arithmetic.h"
#include "kernels/cpu/lanes.h"

namespace fastgpu {
inline namespace FASTGPU_ISA {

// The element type of a source. A source that is not const gets the result, too.
template <typename Byte, typename Storage>
using SourceOf = std::conditional_t<std::is_const_v<Byte>, const Storage, Storage>;

template <typename Format, typename Op, typename Source>
FASTGPU_INLINE void reduce_block(typename Format::Storage* target, Source* source,
                                 typename Reduced<Format>::Watch& watch) {
  using P = Reduced<Format>;
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
  if constexpr (!std::is_const_v<Source>) P::store(source, value, watch);
}

// Replaces every NaN by the canonical NaN of the format.
template <typename Format>
void canonicalize_nans(typename Format::Storage* codes, std::size_t count) {
  constexpr uint32_t kMagnitude = 0x7fff;
  for (std::size_t i = 0; i < count; ++i)
    codes[i] = (codes[i] & kMagnitude) > Format::kInfinity ? Format::kNaN : codes[i];
}

template <typename Format, typename Codes>
FASTGPU_INLINE void canonicalize_if(bool saw_nan, Codes* codes, std::size_t count) {
  if constexpr (!std::is_const_v<Codes> &&
                !std::is_same_v<typename Reduced<Format>::Watch, NoWatch>) {
    if (saw_nan) canonicalize_nans<Format>(codes, count);
  }
}

// Reduces fewer elements than a block, without touching memory around them.
template <typename Format, typename Op, typename Source>
void reduce_part(typename Format::Storage* target, Source* source, std::size_t count) {
  using Storage = typename Format::Storage;
  constexpr std::size_t kBlock = Reduced<Format>::kCount;
  Storage padded_target[kBlock] = {};
  Storage padded_source[kBlock] = {};
  __builtin_memcpy(padded_target, target, count * sizeof(Storage));
  __builtin_memcpy(padded_source, source, count * sizeof(Storage));
  typename Reduced<Format>::Watch watch;
  reduce_block<Format, Op, const Storage>(padded_target, padded_source, watch);
  canonicalize_if<Format>(watch.saw_nan(), padded_target, kBlock);
  __builtin_memcpy(target, padded_target, count * sizeof(Storage));
  if constexpr (!std::is_const_v<Source>)
    __builtin_memcpy(source, padded_target, count * sizeof(Storage));
}

// A long target is first aligned to a register, because stores across cache lines halve the speed
// of AVX-512 in memory. The source is often in another core's cache, and a block takes so many
// instructions that few loads are in flight at once; so the loop prefetches it. It does not
// prefetch beyond the end, where another rank may be writing.
template <typename Format, typename Op, typename Byte = const std::byte>
void reduce_short(std::byte* target_bytes, Byte* source_bytes, std::size_t count) {
  using Storage = typename Format::Storage;
  constexpr std::size_t kBlock = Reduced<Format>::kCount;
  constexpr std::size_t kLong = 16 * kBlock;
  constexpr std::size_t kAhead = 512 / sizeof(Storage);
  auto* target = reinterpret_cast<Storage*>(target_bytes);
  auto* source = reinterpret_cast<SourceOf<Byte, Storage>*>(source_bytes);
  std::size_t i = 0;
  const std::size_t past = reinterpret_cast<std::uintptr_t>(target) % kRegisterBytes;
  if (count >= kLong && past != 0) {
    i = (kRegisterBytes - past) / sizeof(Storage);
    reduce_part<Format, Op>(target, source, i);
  }
  typename Reduced<Format>::Watch watch;
  typename Reduced<Format>::Watch second_watch;
  const std::size_t first = i;
  const std::size_t prefetched = count > kAhead + kBlock ? count - kAhead - kBlock : 0;
  for (; i + 2 * kBlock <= count; i += 2 * kBlock) {
    if (i < prefetched) {
      __builtin_prefetch(source + i + kAhead);
      __builtin_prefetch(source + i + kAhead + kBlock);
    }
    reduce_block<Format, Op>(target + i, source + i, watch);
    reduce_block<Format, Op>(target + i + kBlock, source + i + kBlock, second_watch);
  }
  if (i + kBlock <= count) {
    reduce_block<Format, Op>(target + i, source + i, watch);
    i += kBlock;
  }
  const bool saw_nan = watch.saw_nan() || second_watch.saw_nan();
  canonicalize_if<Format>(saw_nan, target + first, i - first);
  canonicalize_if<Format>(saw_nan, source + first, i - first);
  if (i < count) reduce_part<Format, Op>(target + i, source + i, count - i);
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
  const float factor = Real<float>::store(any_factor);  // with the NaN that NanWatch requires
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
  canonicalize_if<Format>(watch.saw_nan() || second_watch.saw_nan(), data, i);
  const std::size_t rest_bytes = (count - i) * sizeof(Storage);
  if (rest_bytes == 0) return;
  Storage padded[kBlock] = {};
  __builtin_memcpy(padded, data + i, rest_bytes);
  scale_block<Format>(padded, factor, watch);
  canonicalize_if<Format>(watch.saw_nan(), padded, kBlock);
  __builtin_memcpy(data + i, padded, rest_bytes);
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
  if (i == count) return;
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
  if (i == count) return;
  __builtin_memcpy(&values, source + i, (count - i) * sizeof(float));
  Storage padded[kLanes];
  InOrder<Format>::store(padded, values);
  __builtin_memcpy(target + i, padded, (count - i) * sizeof(Storage));
}

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
