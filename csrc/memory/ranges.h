// The free and the used parts of a segment, first fit.
// Threading: one thread at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <utility>

namespace fastgpu {

class Ranges {
 public:
  explicit Ranges(uint64_t size_bytes = 0) { free_[0] = size_bytes; }

  // The offset of `wanted` bytes, which are then used.
  std::optional<uint64_t> take(uint64_t wanted) {
    const auto range =
        std::ranges::find_if(free_, [&](const auto& each) { return each.second >= wanted; });
    if (range == free_.end()) return std::nullopt;
    const auto [offset, available] = *range;
    used_[offset] = wanted;
    if (available > wanted) free_[offset + wanted] = available - wanted;
    free_.erase(range);
    return offset;
  }

  // What take() gave at `offset` is not used any more. Returns its size, 0 if there is none. It is
  // given again only after give_back().
  uint64_t drop(uint64_t offset) {
    const auto used = used_.find(offset);
    if (used == used_.end()) return 0;
    const uint64_t size_bytes = used->second;
    used_.erase(used);
    return size_bytes;
  }

  void give_back(uint64_t offset, uint64_t size_bytes) {
    const auto next = free_.find(offset + size_bytes);
    if (next != free_.end()) {
      size_bytes += next->second;
      free_.erase(next);
    }
    const auto after = free_.lower_bound(offset);
    if (after != free_.begin()) {
      const auto before = std::prev(after);
      if (before->first + before->second == offset) {
        before->second += size_bytes;
        return;
      }
    }
    free_[offset] = size_bytes;
  }

  uint64_t used_bytes() const {
    uint64_t sum = 0;
    for (const auto& [offset, size_bytes] : used_) sum += size_bytes;
    return sum;
  }

  // Offset and size of the used range around `offset`.
  std::optional<std::pair<uint64_t, uint64_t>> used_around(uint64_t offset) const {
    const auto after = used_.upper_bound(offset);
    if (after == used_.begin()) return std::nullopt;
    const auto [begin, size_bytes] = *std::prev(after);
    if (offset >= begin + size_bytes) return std::nullopt;
    return std::pair{begin, size_bytes};
  }

 private:
  std::map<uint64_t, uint64_t> free_;  // offset -> size; neighbours merged
  std::map<uint64_t, uint64_t> used_;
};

}  // namespace fastgpu
