// The n-way reduction and the copy: every source is read once, their sum is written once to every
// target. Between sources the result is rounded, as by a chain of receives that reduce, so the bits
// are those of the CPU.
//
// Threading: device code; the threads that are given a Share work together.
#pragma once

#include "kernels/cuda/combine.h"
#include "kernels/cuda/reduce_args.h"

namespace fastgpu::device {

// The part of a region that a thread works on: `first`, first + stride, ...
struct Share {
  uint64_t first;
  uint64_t stride;
};

FASTGPU_DEVICE Share share_of_block() { return {simt::thread_index(), simt::block_size()}; }
FASTGPU_DEVICE Share share_of_grid() {
  return {uint64_t{simt::block_index()} * simt::block_size() + simt::thread_index(),
          uint64_t{simt::grid_size()} * simt::block_size()};
}

// A region begins with `head_bytes` in front of `packs` packs.
struct Split {
  uint64_t head_bytes;
  uint64_t packs;

  FASTGPU_DEVICE uint64_t packed_bytes() const { return packs * kPackBytes; }
};

FASTGPU_DEVICE Split split(const Sources& sources, const Targets& targets, uint64_t size_bytes) {
  const auto first = reinterpret_cast<uintptr_t>(targets.at[0]);
  uintptr_t apart = 0;
  FASTGPU_NO_UNROLL
  for (int i = 0; i < sources.count; ++i) {
    apart |= first ^ reinterpret_cast<uintptr_t>(sources.at[i]);
  }
  FASTGPU_NO_UNROLL
  for (int i = 1; i < targets.count; ++i) {
    apart |= first ^ reinterpret_cast<uintptr_t>(targets.at[i]);
  }
  if (apart % kPackBytes != 0) return {size_bytes, 0};
  const uint64_t to_border = (kPackBytes - first % kPackBytes) % kPackBytes;
  const uint64_t head_bytes = to_border < size_bytes ? to_border : size_bytes;
  return {head_bytes, (size_bytes - head_bytes) / kPackBytes};
}

// The end of a reduction: results times a factor, unless it is 1. Only sums of floating-point
// numbers have one.
template <typename Element, typename Op>
struct Finish {
  double factor;

  FASTGPU_DEVICE Pack operator()(const Pack& result) const {
    if constexpr (kScales<Element, Op>) {
      if (factor != 1) return scale_pack<Element>(result, number());
    }
    return result;
  }
  FASTGPU_DEVICE typename Element::Storage operator()(typename Element::Storage result) const {
    if constexpr (kScales<Element, Op>) {
      if (factor != 1) return scale_element<Element>(result, number());
    }
    return result;
  }

 private:
  FASTGPU_DEVICE auto number() const { return static_cast<typename Element::Value>(factor); }
};

FASTGPU_DEVICE void store_all(const Targets& targets, uint64_t offset_bytes, const Pack& pack) {
  FASTGPU_NO_UNROLL
  for (int i = 0; i < targets.count; ++i) store_pack(targets.at[i] + offset_bytes, pack);
}

// Combines kAhead packs of kSources sources, or of up to kMaxSources. Every load is issued before
// the first is needed: on a GPU, bytes in flight are bandwidth.
template <typename Element, typename Op, int kSources, int kAhead>
FASTGPU_DEVICE void combine_ahead(const Sources& sources, const Targets& targets,
                                  Finish<Element, Op> finish, uint64_t offset_bytes,
                                  uint64_t stride_bytes) {
  const int count = kSources == kMaxSources ? sources.count : kSources;
  Pack packs[kAhead][kSources] = {};  // those from `count` on stay unused
  FASTGPU_UNROLL
  for (int ahead = 0; ahead < kAhead; ++ahead) {
    FASTGPU_UNROLL
    for (int i = 0; i < kSources; ++i) {
      if (i < count) {
        packs[ahead][i] =
            load_pack(sources.at[i] + offset_bytes + static_cast<uint64_t>(ahead) * stride_bytes);
      }
    }
  }
  FASTGPU_UNROLL
  for (int ahead = 0; ahead < kAhead; ++ahead) {
    Pack result = packs[ahead][0];
    FASTGPU_UNROLL
    for (int i = 1; i < kSources; ++i) {
      if (i < count) result = combine_packs<Element, Op>(result, packs[ahead][i]);
    }
    store_all(targets, offset_bytes + static_cast<uint64_t>(ahead) * stride_bytes, finish(result));
  }
}

template <typename Element, typename Op, int kSources, int kAhead>
FASTGPU_DEVICE void reduce_packs(const Sources& sources, const Targets& targets,
                                 Finish<Element, Op> finish, const Split& parts, Share share) {
  const uint64_t stride_bytes = share.stride * kPackBytes;
  uint64_t at = share.first;
  for (; at + (kAhead - 1) * share.stride < parts.packs; at += kAhead * share.stride) {
    combine_ahead<Element, Op, kSources, kAhead>(sources, targets, finish,
                                                 parts.head_bytes + at * kPackBytes, stride_bytes);
  }
  for (; kAhead > 1 && at < parts.packs; at += share.stride) {
    combine_ahead<Element, Op, kSources, 1>(sources, targets, finish,
                                            parts.head_bytes + at * kPackBytes, stride_bytes);
  }
}

// The elements before and behind the packs.
template <typename Element, typename Op>
FASTGPU_DEVICE void reduce_rest(const Sources& sources, const Targets& targets,
                                Finish<Element, Op> finish, const Split& parts, uint64_t size_bytes,
                                Share share) {
  using Storage = typename Element::Storage;
  const uint64_t rest = (size_bytes - parts.packed_bytes()) / sizeof(Storage);
  for (uint64_t i = share.first; i < rest; i += share.stride) {
    uint64_t offset_bytes = i * sizeof(Storage);
    if (offset_bytes >= parts.head_bytes) offset_bytes += parts.packed_bytes();
    Storage result = load_element<Storage>(sources.at[0] + offset_bytes);
    FASTGPU_NO_UNROLL
    for (int each = 1; each < sources.count; ++each) {
      result = combine_elements<Element, Op>(
          result, load_element<Storage>(sources.at[each] + offset_bytes));
    }
    result = finish(result);
    FASTGPU_NO_UNROLL
    for (int each = 0; each < targets.count; ++each) {
      store_element(targets.at[each] + offset_bytes, result);
    }
  }
}

// One pack after another, and little code: bandwidth comes from the number of threads.
template <typename Element, typename Op>
FASTGPU_DEVICE void reduce_packs_in_turn(const Sources& sources, const Targets& targets,
                                         Finish<Element, Op> finish, const Split& parts,
                                         Share share) {
  for (uint64_t at = share.first; at < parts.packs; at += share.stride) {
    const uint64_t offset_bytes = parts.head_bytes + at * kPackBytes;
    Pack result = load_pack(sources.at[0] + offset_bytes);
    FASTGPU_NO_UNROLL
    for (int i = 1; i < sources.count; ++i) {
      result = combine_packs<Element, Op>(result, load_pack(sources.at[i] + offset_bytes));
    }
    store_all(targets, offset_bytes, finish(result));
  }
}

// Whether the reduction is common enough for kernels that are fast and large.
template <typename Element, typename Op>
inline constexpr bool kIsCommon =
    std::is_same_v<Element, Real<float>> && !std::is_same_v<Op, Product>;
template <typename Op>
inline constexpr bool kIsCommon<Short<BFloat16>, Op> = !std::is_same_v<Op, Product>;
template <>
inline constexpr bool kIsCommon<Short<Float16>, Sum> = true;
template <>
inline constexpr bool kIsCommon<Real<double>, Sum> = true;
template <>
inline constexpr bool kIsCommon<Integer<uint32_t>, Sum> = true;
template <>
inline constexpr bool kIsCommon<Integer<uint64_t>, Sum> = true;
template <>
inline constexpr bool kIsCommon<Integer<int64_t>, Min> = true;
template <>
inline constexpr bool kIsCommon<Integer<int64_t>, Max> = true;
template <typename Op>
inline constexpr bool kIsCommon<Integer<uint8_t>, Op> = kIsBitwise<Op>;

// targets = (sources[0] op sources[1] op ...) * factor. With one source and factor 1 it is a copy.
// The arguments are in memory that a variable can index: a kernel's parameters, or shared memory.
template <typename Element, typename Op>
FASTGPU_DEVICE void reduce_share(const Sources& sources, const Targets& targets,
                                 uint64_t size_bytes, double factor, Share share) {
  const Finish<Element, Op> finish{factor};
  const Split parts = split(sources, targets, size_bytes);
  if constexpr (!kIsCommon<Element, Op>) {
    reduce_packs_in_turn<Element, Op>(sources, targets, finish, parts, share);
  } else if (sources.count == 1) {
    reduce_packs<Element, Op, 1, 8>(sources, targets, finish, parts, share);
  } else if (sources.count == 2) {
    reduce_packs<Element, Op, 2, 4>(sources, targets, finish, parts, share);
  } else {
    reduce_packs<Element, Op, kMaxSources, 1>(sources, targets, finish, parts, share);
  }
  reduce_rest<Element, Op>(sources, targets, finish, parts, size_bytes, share);
}

template <typename Element, typename Op>
FASTGPU_KERNEL FASTGPU_LAUNCH_BOUNDS(kBlockThreads, (kIsCommon<Element, Op> ? 1 : 2))
    reduce_all(FASTGPU_PARAMETER(ReduceArgs) args) {
  reduce_share<Element, Op>(args.sources, args.targets, args.size_bytes, args.factor,
                            share_of_grid());
}

using ReduceAllKernel = void (*)(ReduceArgs);

}  // namespace fastgpu::device
