// Symmetric memory: what fastgpu_comm.empty() hands out. Segments are memfds that peers on the same
// host map on first use, so that a send from one passes only an offset.
// Thread safety: all calls, any thread.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "base/unique_fd.h"

namespace fastgpu {

struct SegmentSpan {
  uint32_t segment = 0;
  uint32_t answer = 0;  // Outgoing::answer
  uint64_t offset_bytes = 0;
};

// The segments this process made. Allocations are whole pages and start zeroed; a freed one may be
// handed out again. Raises std::bad_alloc when memory cannot be had. A forked process shares them
// with the one that made them, and so gives nothing back.
class SymmetricHeap {
 public:
  SymmetricHeap() = default;
  ~SymmetricHeap();
  SymmetricHeap(const SymmetricHeap&) = delete;
  SymmetricHeap& operator=(const SymmetricHeap&) = delete;

  std::byte* allocate(std::size_t size_bytes);
  void free(std::byte* memory) noexcept;

  // Makes the allocation that holds `memory` this process's alone, with what it holds: what a peer
  // writes there from now on is lost. For an operation that has failed while a peer may be about to
  // place an answer. Other threads may go on reading and writing it meanwhile. It is not found, nor
  // handed out, again: whoever else has asked for an answer in it must look. Memory that is not the
  // heap's is left alone.
  void revoke(const std::byte* memory) noexcept;

  // The segment that holds all of [memory, memory + size_bytes), if one does and it was not taken
  // back. Cheap when there are none.
  std::optional<SegmentSpan> find(const std::byte* memory, std::size_t size_bytes) const noexcept;
  // A duplicate of the segment's descriptor, to pass to a peer.
  UniqueFd descriptor(uint32_t segment) const;

 private:
  struct Segment {
    UniqueFd fd;
    std::byte* base = nullptr;
    std::size_t size_bytes = 0;
    std::map<uint64_t, uint64_t> free_ranges;  // offset -> size; neighbours merged, all zeros
    std::map<uint64_t, uint64_t> used_ranges;
    std::map<uint64_t, uint64_t> revoked;  // for ever, also when freed

    bool holds(const std::byte* memory) const {
      return memory >= base && memory < base + size_bytes;
    }
    std::byte* take(std::size_t wanted);  // first fit; nullptr when nothing fits
  };
  static Segment make_segment(std::size_t size_bytes);

  const pid_t maker_ = ::getpid();
  mutable std::mutex mutex_;
  std::vector<Segment> segments_;
};

// The segments of one peer process, mapped as they arrive. Written only where the peer asked for
// an answer in place.
class PeerSegments {
 public:
  PeerSegments() = default;
  ~PeerSegments();
  PeerSegments(const PeerSegments&) = delete;
  PeerSegments& operator=(const PeerSegments&) = delete;

  void add(uint32_t segment, UniqueFd fd);
  // nullptr until the segment has arrived. Raises CommError if the span does not lie within it.
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
