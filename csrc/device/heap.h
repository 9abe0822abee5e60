// Memory of one device in segments that peers on this host map, and the segments that peers have
// shared. Both do for devices what SymmetricHeap and PeerSegments do for shared host memory.
//
// Freed memory may be allocated again at once. So the caller frees it only when no stream and no
// peer uses it any more (DeviceExecutor::when_passed()).
// Ownership: both own their mappings, and the runtime outlives them. Thread safety: all calls, any
// thread.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "device/runtime.h"
#include "memory/allocator.h"
#include "memory/ranges.h"
#include "memory/symmetric_heap.h"

namespace fastgpu {

class DeviceHeap final : public Allocator {
 public:
  static constexpr std::size_t kFirstSegmentBytes = std::size_t{64} << 20;

  // Segments have `segment_bytes` or more, as large allocations need.
  DeviceHeap(DeviceRuntime& runtime, int device, std::size_t segment_bytes = kFirstSegmentBytes)
      : runtime_(runtime), device_(device), segment_bytes_(segment_bytes) {}
  ~DeviceHeap() override;
  DeviceHeap(const DeviceHeap&) = delete;
  DeviceHeap& operator=(const DeviceHeap&) = delete;

  // Aligned to 512 bytes. Not cleared.
  std::byte* allocate(std::size_t size_bytes) override;
  void free(std::byte* memory) noexcept override;

  // The place of [memory, memory + size_bytes), if one segment contains all of it.
  std::optional<SegmentSpan> find(const std::byte* memory, std::size_t size_bytes) const noexcept;
  SharedSegment share(uint32_t segment) const;
  // The bytes that are allocated. The segments have more, and keep it.
  std::size_t used_bytes() const;

 private:
  struct Segment {
    DeviceSegment memory;
    Ranges ranges;

    bool holds(const std::byte* place) const {
      return place >= memory.base && place < memory.base + memory.size_bytes;
    }
  };

  DeviceRuntime& runtime_;
  const int device_;
  const std::size_t segment_bytes_;
  mutable std::mutex mutex_;  // guards segments_
  std::vector<Segment> segments_;
};

// The segments of one peer process, mapped for one device as they arrive.
class PeerDeviceSegments {
 public:
  PeerDeviceSegments(DeviceRuntime& runtime, int device) : runtime_(runtime), device_(device) {}
  ~PeerDeviceSegments();
  PeerDeviceSegments(const PeerDeviceSegments&) = delete;
  PeerDeviceSegments& operator=(const PeerDeviceSegments&) = delete;

  void add(uint32_t segment, const SharedSegment& shared);
  // The memory at a span; nullptr until the segment has arrived. Raises PeerLostError if the span
  // is outside the segment.
  const std::byte* at(const SegmentSpan& span, std::size_t size_bytes) const;

 private:
  DeviceRuntime& runtime_;
  const int device_;
  mutable std::mutex mutex_;  // guards mapped_
  std::map<uint32_t, DeviceSegment> mapped_;
};

}  // namespace fastgpu
