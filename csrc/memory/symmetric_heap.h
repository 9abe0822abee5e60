// Symmetric memory, from which fastgpu_comm.empty() allocates. It consists of segments: memfds that
// the peers on the same host map on first use. So a send only has to pass an offset.
// Ownership: each process owns its mappings. Thread safety: all calls, any thread.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "base/unique_fd.h"
#include "memory/allocator.h"
#include "memory/ranges.h"

namespace fastgpu {

// A place in a segment.
struct SegmentSpan {
  uint32_t segment = 0;
  uint64_t offset_bytes = 0;
};

// The segments that this process has created. An allocation has whole pages, all zeros. A forked
// child shares its parent's segments, so in a child free() and revoke() do nothing.
class SymmetricHeap final : public Allocator {
 public:
  SymmetricHeap() = default;
  ~SymmetricHeap() override;
  SymmetricHeap(const SymmetricHeap&) = delete;
  SymmetricHeap& operator=(const SymmetricHeap&) = delete;

  std::byte* allocate(std::size_t size_bytes) override;
  void free(std::byte* memory) noexcept override;

  // Makes the allocation around `memory` private to this process and keeps its content. Later
  // writes of a peer are lost. Used when an operation has failed and a peer may still write a reply
  // into its memory. Other threads may read and write the memory during the call. Afterwards find()
  // does not find the allocation, and allocate() never returns its pages again. So when a requested
  // reply arrives, the operation must call find() to learn whether the memory was revoked
  // meanwhile. Does nothing if `memory` is not in the heap.
  void revoke(const std::byte* memory) noexcept;

  // The place of [memory, memory + size_bytes), if one segment contains all of it and none of it
  // was revoked. Costs a lock, and little else while there are no segments.
  std::optional<SegmentSpan> find(const std::byte* memory, std::size_t size_bytes) const noexcept;
  // A duplicate of the segment's descriptor, to be passed to a peer.
  UniqueFd descriptor(uint32_t segment) const;

 private:
  struct Segment {
    UniqueFd fd;
    std::byte* base = nullptr;
    std::size_t size_bytes = 0;
    Ranges ranges;                         // what is free is all zeros
    std::map<uint64_t, uint64_t> revoked;  // offset -> size; kept even after free()

    bool holds(const std::byte* memory) const {
      return memory >= base && memory < base + size_bytes;
    }
    std::byte* take(std::size_t wanted);  // first fit; nullptr when nothing fits
  };
  static Segment make_segment(std::size_t size_bytes);

  const pid_t creator_ = ::getpid();
  mutable std::mutex mutex_;  // guards what follows
  std::vector<Segment> segments_;
};

// The segments of one peer process, mapped as they arrive. This process writes into them only the
// replies that the peer has requested, and puts into the peer's windows.
class PeerSegments {
 public:
  PeerSegments() = default;
  ~PeerSegments();
  PeerSegments(const PeerSegments&) = delete;
  PeerSegments& operator=(const PeerSegments&) = delete;

  void add(uint32_t segment, UniqueFd fd);
  // The memory at a span; nullptr until the segment has arrived. Raises PeerLostError if the span
  // is outside the segment.
  std::byte* at(const SegmentSpan& span, std::size_t size_bytes) const;

 private:
  struct Mapping {
    std::byte* base = nullptr;
    std::size_t size_bytes = 0;
  };
  mutable std::mutex mutex_;
  std::map<uint32_t, Mapping> mappings_;
};

}  // namespace fastgpu
