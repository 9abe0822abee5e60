// How threads share the data of a block codec. A quad takes a group of elements that has 64 bytes
// of codes: one block of int8, or four of int4.
//
//     floats of a group     piece 0: 16 elements, 4 for each thread; piece 1: the next 16; ...
//     codes of a group      16 bytes for each thread
//
// So a quad accesses 64 bytes of floats side by side at a time, and each thread 16. A word has the
// codes of 4 elements that a thread has loaded; transpose() moves it to the thread that stores it.
//
// An array whose address allows it, and each group but an incomplete last one, is accessed in
// packs; others by smaller units, down to single bytes of codes.
//
// Threading: device code; any thread.
#pragma once

#include <type_traits>

#include "kernels/block_codec.h"
#include "kernels/cuda/codec_args.h"
#include "kernels/cuda/quad.h"

namespace fastgpu::device {

inline constexpr unsigned kGroupCodeBytes = kQuad * kPackBytes;
inline constexpr unsigned kPieceElements = kQuad * 4;

template <typename Format>
struct Groups {
  static constexpr bool kPacked = std::is_same_v<Format, Int4Blocks>;  // two codes in a byte
  static constexpr unsigned kBlocks = kPacked ? 4 : 1;
  static constexpr unsigned kElements = kBlocks * Format::kBlock;
  static constexpr unsigned kPieces = kElements / kPieceElements;
  static constexpr unsigned kBlockPieces = kPieces / kBlocks;
  using Values = float[kPieces * 4];  // of one thread, piece after piece
  using Scales = uint32_t[kBlocks];
};

// A thread's part of a group.
struct GroupPart {
  uint64_t group;
  unsigned thread;  // in the quad
  unsigned count;   // of the group's elements; 0 behind the end
};

// The part of thread `number`, counted from the first group on.
template <typename Format>
FASTGPU_DEVICE GroupPart part_of(uint64_t number, uint64_t count) {
  constexpr unsigned kElements = Groups<Format>::kElements;
  const uint64_t group = number / kQuad;
  const uint64_t first = group * kElements;
  const uint64_t left = first < count ? count - first : 0;
  return {group, static_cast<unsigned>(number % kQuad),
          left < kElements ? static_cast<unsigned>(left) : kElements};
}

// How many threads the groups keep busy, in whole warps.
template <typename Format>
FASTGPU_DEVICE uint64_t threads_for(uint64_t count) {
  constexpr unsigned kElements = Groups<Format>::kElements;
  const uint64_t threads = (count + kElements - 1) / kElements * kQuad;
  return (threads + simt::kWarpSize - 1) / simt::kWarpSize * simt::kWarpSize;
}

// The elements of a thread's piece: up to 4 of the group, from number `first` on. Of a block of n
// int4 codes, piece 0 has the first n / 2, rounded up, and piece 1 the rest.
struct Span {
  unsigned first;
  unsigned count;
};

template <typename Format>
FASTGPU_DEVICE Span span_of(const GroupPart& part, unsigned piece) {
  using G = Groups<Format>;
  constexpr unsigned kBlock = Format::kBlock;
  const unsigned block = piece / G::kBlockPieces * kBlock;
  const unsigned left = part.count > block ? part.count - block : 0;
  const unsigned length = left < kBlock ? left : kBlock;
  const unsigned run = G::kPacked ? (length + 1) / 2 : kPieceElements;
  const unsigned begin = piece % G::kBlockPieces * run;
  const unsigned end = begin + run < length ? begin + run : length;
  const unsigned first = begin + 4 * part.thread;
  const unsigned count = end > first ? end - first : 0;
  return {block + first, count < 4 ? count : 4};
}

// The offset of a thread's piece of a whole group, in elements.
FASTGPU_DEVICE unsigned offset_of(const GroupPart& part, unsigned piece) {
  return piece * kPieceElements + 4 * part.thread;
}

template <typename Format>
FASTGPU_DEVICE uint64_t bytes_before(const GroupPart& part) {
  return part.group * Groups<Format>::kElements * sizeof(float);
}

template <typename Format>
FASTGPU_DEVICE bool moves_packs(const float* array, const GroupPart& part) {
  return part.count == Groups<Format>::kElements && is_aligned(array);
}

// Of a whole group, in aligned packs.
template <typename Format>
FASTGPU_DEVICE void load_packs(const float* array, const GroupPart& part,
                               typename Groups<Format>::Values& values) {
  const auto* const from = reinterpret_cast<const std::byte*>(array) + bytes_before<Format>(part);
  FASTGPU_UNROLL
  for (unsigned piece = 0; piece < Groups<Format>::kPieces; ++piece) {
    const Pack pack = load_pack(from + offset_of(part, piece) * sizeof(float));
    FASTGPU_UNROLL
    for (unsigned i = 0; i < 4; ++i) values[4 * piece + i] = float_of(pack.word[i]);
  }
}

// Elements that the group does not have are 0.
template <typename Format>
FASTGPU_DEVICE void load_values(const float* array, const GroupPart& part,
                                typename Groups<Format>::Values& values) {
  if (moves_packs<Format>(array, part)) return load_packs<Format>(array, part, values);
  const auto* const from = reinterpret_cast<const std::byte*>(array) + bytes_before<Format>(part);
  FASTGPU_UNROLL
  for (unsigned piece = 0; piece < Groups<Format>::kPieces; ++piece) {
    const Span span = span_of<Format>(part, piece);
    const std::byte* const first = from + span.first * sizeof(float);
    FASTGPU_UNROLL
    for (unsigned i = 0; i < 4; ++i) {
      values[4 * piece + i] =
          i < span.count ? load_element<float>(first + i * sizeof(float)) : 0.0F;
    }
  }
}

// Stores the blocks whose bit is set in `blocks`.
template <typename Format>
FASTGPU_DEVICE void store_packs(float* array, const GroupPart& part,
                                const typename Groups<Format>::Values& values, unsigned blocks) {
  auto* const to = reinterpret_cast<std::byte*>(array) + bytes_before<Format>(part);
  FASTGPU_UNROLL
  for (unsigned piece = 0; piece < Groups<Format>::kPieces; ++piece) {
    if ((blocks >> piece / Groups<Format>::kBlockPieces & 1) == 0) continue;
    Pack pack;
    FASTGPU_UNROLL
    for (unsigned i = 0; i < 4; ++i) pack.word[i] = bits_of(values[4 * piece + i]);
    store_pack(to + offset_of(part, piece) * sizeof(float), pack);
  }
}

template <typename Format>
FASTGPU_DEVICE void store_values(float* array, const GroupPart& part,
                                 const typename Groups<Format>::Values& values, unsigned blocks) {
  if (moves_packs<Format>(array, part)) return store_packs<Format>(array, part, values, blocks);
  auto* const to = reinterpret_cast<std::byte*>(array) + bytes_before<Format>(part);
  FASTGPU_UNROLL
  for (unsigned piece = 0; piece < Groups<Format>::kPieces; ++piece) {
    if ((blocks >> piece / Groups<Format>::kBlockPieces & 1) == 0) continue;
    const Span span = span_of<Format>(part, piece);
    std::byte* const first = to + span.first * sizeof(float);
    FASTGPU_UNROLL
    for (unsigned i = 0; i < 4; ++i) {
      if (i < span.count) store_element(first + i * sizeof(float), values[4 * piece + i]);
    }
  }
}

// An encoded array: scales, then codes; at any address.
template <typename Format>
FASTGPU_DEVICE uint64_t scales_bytes_of(uint64_t count) {
  return (count + Format::kBlock - 1) / Format::kBlock * kScaleBytes;
}

// How many of the thread's 16 bytes of codes the group has.
template <typename Format>
FASTGPU_DEVICE unsigned code_bytes_of(const GroupPart& part) {
  const unsigned all = Groups<Format>::kPacked ? (part.count + 1) / 2 : part.count;
  const unsigned begin = part.thread * static_cast<unsigned>(kPackBytes);
  const unsigned left = all > begin ? all - begin : 0;
  return left < kPackBytes ? left : static_cast<unsigned>(kPackBytes);
}

FASTGPU_DEVICE uint64_t code_offset_of(const GroupPart& part) {
  return part.group * kGroupCodeBytes + part.thread * kPackBytes;
}

// The block whose scale a thread handles. int4 has a block for each of the four threads, int8 one
// for all.
template <typename Format>
FASTGPU_DEVICE unsigned block_of(const GroupPart& part) {
  return Groups<Format>::kPacked ? part.thread : 0;
}
template <typename Format>
FASTGPU_DEVICE bool has_block(const GroupPart& part) {
  return block_of<Format>(part) * Format::kBlock < part.count;
}
template <typename Format>
FASTGPU_DEVICE uint64_t scale_offset_of(const GroupPart& part) {
  return (part.group * Groups<Format>::kBlocks + block_of<Format>(part)) * kScaleBytes;
}

}  // namespace fastgpu::device
