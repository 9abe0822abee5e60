// LaneContext: the argument of every builder. It has the request, the lane, the lane's share of the
// buffers, and the LaneBuilder to write the steps into.
//
// A builder writes the steps of `request.rank` in one lane and nothing else. It may assume
// count > 0 and world > 1, except direct_all_to_all and barrier. Builders write schedules for
// n = world ranks and tensors of S bytes; their comments count hops (rounds) and bytes in n and S.
//
// Ownership: lives inside build(). Threading: one thread.
#pragma once

#include "base/cache_lines.h"
#include "plan/build.h"
#include "plan/builders/lane_builder.h"
#include "plan/builders/partition.h"

namespace fastgpu {

// Allocates the regions of the scratch buffer. No two regions share a cache line.
class ScratchLayout {
 public:
  Region allocate(uint64_t size_bytes) {
    const Region region{Buffer::kScratch, used_bytes_, size_bytes};
    used_bytes_ += (size_bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
    return region;
  }
  uint64_t used_bytes() const { return used_bytes_; }
  void set_shared() { shared_ = true; }  // see Schedule::scratch_shared
  bool shared() const { return shared_; }

 private:
  uint64_t used_bytes_ = 0;
  bool shared_ = false;
};

struct LaneContext {
  const PlanRequest& request;
  int lane;
  ScratchLayout& scratch;  // of all lanes
  LaneBuilder steps;

  // The lane's share of part `part`, where a buffer holds parts of `count` elements each.
  Region data(int part = 0) const { return share_of(Buffer::kData, part); }
  Region input(int part = 0) const { return share_of(Buffer::kInput, part); }
  // The lane's share of any region.
  Region share_of(const Region& whole) const { return split(whole, request.lanes)[lane]; }
  // The lane's data in blocks of request.block_bytes / lanes, or in one block.
  ChunkedRegion blocks() const {
    const uint64_t block_bytes = request.block_bytes / static_cast<uint64_t>(request.lanes);
    return {data(), block_bytes > 0 ? block_bytes : data().size_bytes, request.element_size};
  }
  Partition split(const Region& region, int parts) const {
    return Partition(region, parts, request.element_size);
  }

 private:
  Region share_of(Buffer buffer, int part) const {
    const uint64_t part_bytes = request.count * request.element_size;
    return share_of({buffer, static_cast<uint64_t>(part) * part_bytes, part_bytes});
  }
};

// The rank `distance` places after `rank`, or before it if negative, modulo `world`.
// Precondition: |distance| < world.
inline int shifted(int rank, int distance, int world) { return (rank + distance + world) % world; }

}  // namespace fastgpu
