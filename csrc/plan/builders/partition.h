// Cutting a region into balanced parts of whole elements. Every rank cuts alike, so that shard i
// means the same bytes everywhere. Large parts begin at multiples of a cache line from the start
// of the whole: two ranks or two lanes never write one line.
// Thread safety: a value.
#pragma once

#include <cstdint>

#include "plan/schedule.h"

namespace fastgpu {

inline constexpr uint64_t kCacheLineBytes = 64;

class Partition {
 public:
  // `whole` holds whole elements; parts may be empty when there are more of them than elements.
  Partition(const Region& whole, int parts, uint32_t element_size);

  Region operator[](int part) const { return range(part, part + 1); }
  Region range(int first, int last) const;  // parts first .. last - 1, which lie side by side
  int parts() const { return parts_; }

 private:
  uint64_t border_bytes(int part) const;

  Region whole_;
  int parts_;
  uint64_t unit_bytes_;      // borders lie at multiples of it
  uint64_t units_per_part_;  // and the first `longer_` parts have one more
  uint64_t longer_;
};

// The chunks of a pipeline: `chunk_bytes` rounded down to whole elements (one at least), the last
// one shorter.
class Chunks {
 public:
  Chunks(const Region& whole, uint64_t chunk_bytes, uint32_t element_size);

  int64_t count() const { return count_; }
  Region operator[](int64_t chunk) const;
  uint64_t chunk_bytes() const { return chunk_bytes_; }

 private:
  Region whole_;
  uint64_t chunk_bytes_;
  int64_t count_;
};

}  // namespace fastgpu
