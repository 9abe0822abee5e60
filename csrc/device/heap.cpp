#include "device/heap.h"

#include <algorithm>
#include <new>
#include <string>

#include "base/error.h"

namespace fastgpu {
namespace {

constexpr std::size_t kUnitBytes = 512;

std::size_t round_up(std::size_t size_bytes) {
  if (size_bytes > PTRDIFF_MAX - kUnitBytes) throw std::bad_alloc();
  return (std::max<std::size_t>(size_bytes, 1) + kUnitBytes - 1) / kUnitBytes * kUnitBytes;
}

}  // namespace

DeviceHeap::~DeviceHeap() {
  for (const Segment& segment : segments_) runtime_.free(segment.memory);
}

std::byte* DeviceHeap::allocate(std::size_t size_bytes) {
  const std::size_t wanted = round_up(size_bytes);
  const std::lock_guard lock(mutex_);
  for (Segment& segment : segments_) {
    if (const auto offset = segment.ranges.take(wanted)) return segment.memory.base + *offset;
  }
  segments_.reserve(segments_.size() + 1);  // so that nothing fails once there is a segment
  const DeviceSegment memory = runtime_.allocate(device_, std::max(segment_bytes_, wanted));
  segments_.push_back({memory, Ranges(memory.size_bytes)});
  return memory.base + *segments_.back().ranges.take(wanted);
}

void DeviceHeap::free(std::byte* memory) noexcept {
  const std::lock_guard lock(mutex_);
  for (Segment& segment : segments_) {
    if (!segment.holds(memory)) continue;
    const auto offset = static_cast<uint64_t>(memory - segment.memory.base);
    const uint64_t size_bytes = segment.ranges.drop(offset);
    if (size_bytes != 0) segment.ranges.give_back(offset, size_bytes);
    return;
  }
}

std::optional<SegmentSpan> DeviceHeap::find(const std::byte* memory,
                                            std::size_t size_bytes) const noexcept {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    const Segment& segment = segments_[i];
    if (!segment.holds(memory)) continue;
    const auto offset = static_cast<uint64_t>(memory - segment.memory.base);
    if (size_bytes > segment.memory.size_bytes - offset) return std::nullopt;
    return SegmentSpan{.segment = static_cast<uint32_t>(i), .offset_bytes = offset};
  }
  return std::nullopt;
}

std::size_t DeviceHeap::used_bytes() const {
  const std::lock_guard lock(mutex_);
  std::size_t used_bytes = 0;
  for (const Segment& segment : segments_) used_bytes += segment.ranges.used_bytes();
  return used_bytes;
}

SharedSegment DeviceHeap::share(uint32_t segment) const {
  const std::lock_guard lock(mutex_);
  if (segment >= segments_.size()) {
    raise(ErrorKind::kInvalidArgument,
          "there is no segment " + std::to_string(segment) + " of device memory");
  }
  return runtime_.share(segments_[segment].memory);
}

PeerDeviceSegments::~PeerDeviceSegments() {
  for (const auto& [segment, mapped] : mapped_) runtime_.unmap(mapped);
}

void PeerDeviceSegments::add(uint32_t segment, const SharedSegment& shared) {
  const std::lock_guard lock(mutex_);
  if (mapped_.contains(segment)) return;  // each channel of the peer shares it once
  mapped_[segment] = runtime_.map(device_, shared);
}

const std::byte* PeerDeviceSegments::at(const SegmentSpan& span, std::size_t size_bytes) const {
  const std::lock_guard lock(mutex_);
  const auto found = mapped_.find(span.segment);
  if (found == mapped_.end()) return nullptr;
  const DeviceSegment& mapped = found->second;
  if (span.offset_bytes > mapped.size_bytes || size_bytes > mapped.size_bytes - span.offset_bytes) {
    raise(ErrorKind::kPeerLost,
          "a peer referred to bytes outside its device memory: " + std::to_string(size_bytes) +
              " at " + std::to_string(span.offset_bytes) + " of " +
              std::to_string(mapped.size_bytes) + "; its process is broken, restart the job");
  }
  return mapped.base + span.offset_bytes;
}

}  // namespace fastgpu
