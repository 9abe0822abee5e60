// What a builder writes into: one lane of one rank's schedule, with the lane's share of the data
// and scratch that no other lane touches. Builders are functions of a Draft; each writes down the
// steps of draft.request.rank and nothing else. They may count on count > 0 and world > 1.
// Ownership: lives inside build(). Thread safety: one thread.
#pragma once

#include "plan/build.h"
#include "plan/builders/lane_builder.h"
#include "plan/builders/partition.h"

namespace fastgpu {

// Hands out regions of the wire buffer, each on cache lines of its own.
class ScratchLayout {
 public:
  Region take(uint64_t size_bytes) {
    const Region region{Buffer::kScratch, used_bytes_, size_bytes};
    used_bytes_ += (size_bytes + kCacheLineBytes - 1) / kCacheLineBytes * kCacheLineBytes;
    return region;
  }
  uint64_t used_bytes() const { return used_bytes_; }
  void share() { shared_ = true; }
  bool shared() const { return shared_; }

 private:
  uint64_t used_bytes_ = 0;
  bool shared_ = false;
};

struct LaneContext {
  const PlanRequest& request;
  int lane;
  ScratchLayout& scratch;
  LaneBuilder steps;

  // This lane's share of part `part` of a buffer that holds parts of `count` elements each.
  Region data(int part = 0) const { return share_of(Buffer::kData, part); }
  Region input(int part = 0) const { return share_of(Buffer::kInput, part); }
  // This lane's share of any other region.
  Region share_of(const Region& whole) const {
    return Partition(whole, request.lanes, request.element_size)[lane];
  }
  // This lane's data in blocks of request.block_bytes, or in one.
  Chunks blocks() const {
    const uint64_t block_bytes = request.block_bytes / static_cast<uint64_t>(request.lanes);
    return {data(), block_bytes > 0 ? block_bytes : data().size_bytes, request.element_size};
  }
  // `regions` into as many parts of whole elements.
  Partition split(const Region& region, int parts) const {
    return Partition(region, parts, request.element_size);
  }

 private:
  Region share_of(Buffer buffer, int part) const {
    const uint64_t part_bytes = request.count * request.element_size;
    return share_of({buffer, static_cast<uint64_t>(part) * part_bytes, part_bytes});
  }
};

// `rank` moved by `by` places round a world of `world`; |by| < world.
inline int shifted(int rank, int by, int world) { return (rank + by + world) % world; }

}  // namespace fastgpu
