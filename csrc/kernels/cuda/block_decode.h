// Decodes float32 of the block codecs int8 and int4, and adds up several encoded arrays and at most
// one that is not encoded in one pass: sums are in float32, in the order of the arrays, with the
// bits of a chain of decode and decode_add of the CPU's kernels.
//
// Traffic per element: 4 bytes written, and read 1.03 (int8) or 0.56 (int4) for each encoded array
// and 4 for the other one.
//
// Threading: device code; the threads that are given a Share work together, in whole warps.
#pragma once

#include "kernels/cuda/block_encode.h"

namespace fastgpu::device {

namespace block {

// A thread's part of an encoded array: 16 bytes of codes, and the scale of their block.
struct Fetched {
  Pack codes;
  uint32_t scale;
};

FASTGPU_DEVICE uint32_t load_scale(const std::byte* source) {
  if (reinterpret_cast<uintptr_t>(source) % kScaleBytes == 0) {
    return static_cast<uint32_t>(load_element<uint16_t>(source)) << 16;
  }
  const uint32_t low = load_element<uint8_t>(source);
  const uint32_t high = load_element<uint8_t>(source + 1);
  return high << 24 | low << 16;
}

// Of a whole group whose codes are aligned. fetch_any() takes any group at any address.
template <typename Format>
FASTGPU_DEVICE Fetched fetch(const std::byte* source, uint64_t count, const GroupPart& part) {
  return {load_pack(source + scales_bytes_of<Format>(count) + code_offset_of(part)),
          static_cast<uint32_t>(load_element<uint16_t>(source + scale_offset_of<Format>(part)))
              << 16};
}

template <typename Format>
FASTGPU_DEVICE Fetched fetch_any(const std::byte* source, uint64_t count, const GroupPart& part) {
  return {load_bytes(source + scales_bytes_of<Format>(count) + code_offset_of(part),
                     code_bytes_of<Format>(part)),
          has_block<Format>(part) ? load_scale(source + scale_offset_of<Format>(part)) : 0};
}

// Code i of a piece; `word` has the codes of the piece.
template <typename Format>
FASTGPU_DEVICE float code_of(uint32_t word, unsigned piece, unsigned i) {
  if constexpr (Groups<Format>::kPacked) {
    return static_cast<float>(static_cast<int32_t>(word << (28 - 4 * (piece % 2) - 8 * i)) >> 28);
  } else {
    return static_cast<float>(static_cast<int8_t>(word >> (8 * i)));
  }
}

// The sum begins as +0, so a code of 0 gives +0, whatever the sign of the scale.
template <typename Format>
FASTGPU_DEVICE void add_decoded(const Fetched& fetched, unsigned thread,
                                typename Groups<Format>::Values& sum) {
  using G = Groups<Format>;
  const Pack words = transpose(fetched.codes, thread);
  typename G::Scales scales;
  quad_gather(fetched.scale, thread, scales);
  FASTGPU_UNROLL
  for (unsigned piece = 0; piece < G::kPieces; ++piece) {
    const unsigned block = piece / G::kBlockPieces;
    FASTGPU_UNROLL
    for (unsigned i = 0; i < 4; ++i) {
      const float code = code_of<Format>(words.word[G::kPacked ? block : piece], piece, i);
      float& value = sum[4 * piece + i];
      value = multiply_add(code, float_of(scales[block]), value);
    }
  }
}

template <typename Format>
FASTGPU_DEVICE void add(const DecodeArgs& args, const typename Groups<Format>::Values& plain,
                        typename Groups<Format>::Values& sum) {
  FASTGPU_UNROLL
  for (unsigned i = 0; i < 4 * Groups<Format>::kPieces; ++i) {
    sum[i] = args.plain_at == 0 ? plain[i] : sum[i] + plain[i];
  }
}

// NaN stays NaN in a sum, so it is enough to replace it at the end.
template <typename Format>
FASTGPU_DEVICE void finish(const DecodeArgs& args, typename Groups<Format>::Values& sum) {
  FASTGPU_UNROLL
  for (unsigned i = 0; i < 4 * Groups<Format>::kPieces; ++i) sum[i] = finished(args, sum[i]);
}

// A whole group, aligned. kSources sources are loaded before the first is needed: on a GPU, bytes
// in flight are bandwidth.
template <typename Format, int kSources>
FASTGPU_DEVICE void decode_ahead(const DecodeArgs& args, const GroupPart& part) {
  typename Groups<Format>::Values sum{};
  const auto add_plain = [&] {
    typename Groups<Format>::Values plain;
    load_packs<Format>(args.plain, part, plain);
    add<Format>(args, plain, sum);
  };
  FASTGPU_NO_UNROLL
  for (int first = 0; first < args.sources.count; first += kSources) {
    Fetched fetched[kSources];
    FASTGPU_UNROLL
    for (int i = 0; i < kSources; ++i) {
      if (first + i < args.sources.count) {
        fetched[i] = fetch<Format>(args.sources.at[first + i], args.count, part);
      }
    }
    FASTGPU_UNROLL
    for (int i = 0; i < kSources; ++i) {
      if (first + i >= args.sources.count) break;
      if (first + i == args.plain_at) add_plain();
      add_decoded<Format>(fetched[i], part.thread, sum);
    }
  }
  if (args.sources.count == args.plain_at) add_plain();
  finish<Format>(args, sum);
  store_packs<Format>(args.target, part, sum, ~0u);
}

// Sources [first, last), one after the other.
template <typename Format>
FASTGPU_DEVICE void add_in_turn(const DecodeArgs& args, const GroupPart& part, int first, int last,
                                typename Groups<Format>::Values& sum) {
  FASTGPU_NO_UNROLL
  for (int i = first; i < last; ++i) {
    add_decoded<Format>(fetch_any<Format>(args.sources.at[i], args.count, part), part.thread, sum);
  }
}

template <typename Format>
FASTGPU_DEVICE void decode_in_turn(const DecodeArgs& args, const GroupPart& part) {
  typename Groups<Format>::Values sum{};
  const int before = args.plain_at < 0 ? args.sources.count : args.plain_at;
  add_in_turn<Format>(args, part, 0, before, sum);
  if (args.plain_at >= 0) {
    typename Groups<Format>::Values plain;
    load_values<Format>(args.plain, part, plain);
    add<Format>(args, plain, sum);
    add_in_turn<Format>(args, part, before, args.sources.count, sum);
  }
  finish<Format>(args, sum);
  store_values<Format>(args.target, part, sum, ~0u);
}

template <typename Format>
FASTGPU_DEVICE bool is_aligned(const DecodeArgs& args) {
  uintptr_t addresses = reinterpret_cast<uintptr_t>(args.target);
  if (args.plain_at >= 0) addresses |= reinterpret_cast<uintptr_t>(args.plain);
  FASTGPU_NO_UNROLL
  for (int i = 0; i < args.sources.count; ++i) {
    addresses |=
        reinterpret_cast<uintptr_t>(args.sources.at[i]) + scales_bytes_of<Format>(args.count);
  }
  return addresses % kPackBytes == 0;
}

}  // namespace block

// The arguments are in memory that a variable can index: a kernel's parameters, or shared memory.
// If the arrays are aligned, warps that have whole groups load several sources ahead. All else
// takes one source after the other.
template <typename Format>
FASTGPU_DEVICE void decode_share(const DecodeArgs& args, Share share) {
  const uint64_t whole =
      args.count / Groups<Format>::kElements * kQuad / simt::kWarpSize * simt::kWarpSize;
  const uint64_t ahead = block::is_aligned<Format>(args) ? whole : 0;
  uint64_t at = share.first;
  if (args.sources.count == 1) {
    for (; at < ahead; at += share.stride) {
      block::decode_ahead<Format, 1>(args, part_of<Format>(at, args.count));
    }
  } else {
    for (; at < ahead; at += share.stride) {
      block::decode_ahead<Format, kDecodeAhead>(args, part_of<Format>(at, args.count));
    }
  }
  for (; at < threads_for<Format>(args.count); at += share.stride) {
    block::decode_in_turn<Format>(args, part_of<Format>(at, args.count));
  }
}

// Blocks of whole warps.
template <typename Format>
FASTGPU_KERNEL FASTGPU_LAUNCH_BOUNDS(kBlockThreads, 1)
    decode_blocks(FASTGPU_PARAMETER(DecodeArgs) args) {
  decode_share<Format>(args, share_of_grid());
}

}  // namespace fastgpu::device
