// Cuts a region into parts of whole elements. Every rank cuts alike, so shard i is the same bytes
// on every rank.
//
// Threading: values, any thread.
#pragma once

#include <cstdint>

#include "plan/schedule.h"

namespace fastgpu {

// Balanced parts. Parts of 4 KiB or more begin at a multiple of a cache line from the start of the
// region, so that two ranks or two lanes never write the same line.
class Partition {
 public:
  // `whole` must hold whole elements. Some parts are empty if there are more parts than elements.
  Partition(const Region& whole, int parts, uint32_t element_size);

  Region operator[](int part) const { return range(part, part + 1); }
  Region range(int first, int last) const;  // the adjacent parts first .. last - 1
  int parts() const { return parts_; }

 private:
  uint64_t begin_bytes(int part) const;

  Region whole_;
  int parts_;
  uint64_t unit_bytes_;  // each part begins at a multiple of this
  uint64_t units_per_part_;
  uint64_t longer_parts_;  // the first parts, which have one unit more
};

// Chunks of equal size, the last one possibly shorter: `chunk_bytes` rounded down to whole
// elements, but at least one element.
class ChunkedRegion {
 public:
  ChunkedRegion(const Region& whole, uint64_t chunk_bytes, uint32_t element_size);

  int64_t count() const { return count_; }
  Region operator[](int64_t chunk) const;
  uint64_t chunk_bytes() const { return chunk_bytes_; }

 private:
  Region whole_;
  uint64_t chunk_bytes_;
  int64_t count_;
};

}  // namespace fastgpu
