// The message from a sender of device memory to its receiver about a frame. It is the payload of a
// frame in a channel of host memory: 16 bytes, which every channel carries inline.
// Threading: plain values.
#pragma once

#include <cstdint>

#include "memory/symmetric_heap.h"

namespace fastgpu {

enum class PostKind : uint8_t {
  kEmpty,   // there is no payload
  kMapped,  // it lies in a segment that the receiver maps, reads and acknowledges
  kBytes,   // it follows, in frames of at most piece_bytes each
};

struct Post {
  uint64_t where = 0;
  uint64_t size_bytes = 0;

  static Post empty() { return {}; }
  static Post mapped(const SegmentSpan& span, uint64_t size_bytes) {
    return {.where = uint64_t{1} << kKindShift | uint64_t{span.segment} << kSegmentShift |
                     span.offset_bytes,
            .size_bytes = size_bytes};
  }
  static Post bytes(uint64_t piece_bytes, uint64_t size_bytes) {
    return {.where = uint64_t{2} << kKindShift | piece_bytes, .size_bytes = size_bytes};
  }

  // May be a value that is no PostKind, since the peer may be broken.
  PostKind kind() const { return static_cast<PostKind>(where >> kKindShift); }
  SegmentSpan span() const {
    return {.segment = static_cast<uint32_t>(where >> kSegmentShift & kMostSegments),
            .offset_bytes = where & kOffset};
  }
  uint64_t piece_bytes() const { return where & kOffset; }

  static constexpr int kKindShift = 62;
  static constexpr int kSegmentShift = 46;
  static constexpr uint64_t kOffset = (uint64_t{1} << kSegmentShift) - 1;
  static constexpr uint32_t kMostSegments = (1u << (kKindShift - kSegmentShift)) - 1;
};
static_assert(sizeof(Post) == 16);

}  // namespace fastgpu
