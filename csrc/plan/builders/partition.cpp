#include "plan/builders/partition.h"

#include <algorithm>

#include "base/cache_lines.h"

namespace fastgpu {
namespace {

// In smaller parts, one cache line more or less would unbalance the parts by more than 1/64.
constexpr uint64_t kAlignFromBytes = 64 * kLineBytes;

}  // namespace

Partition::Partition(const Region& whole, int parts, uint32_t element_size)
    : whole_(whole), parts_(parts), unit_bytes_(element_size) {
  const auto count = static_cast<uint64_t>(parts);
  if (whole.size_bytes / count >= kAlignFromBytes && kLineBytes % element_size == 0) {
    unit_bytes_ = kLineBytes;
  }
  const uint64_t units = whole.size_bytes / unit_bytes_;  // the last part takes the remainder
  units_per_part_ = units / count;
  longer_parts_ = units % count;
}

uint64_t Partition::begin_bytes(int part) const {
  if (part == parts_) return whole_.size_bytes;
  const auto index = static_cast<uint64_t>(part);
  return (index * units_per_part_ + std::min(index, longer_parts_)) * unit_bytes_;
}

Region Partition::range(int first, int last) const {
  const uint64_t begin = begin_bytes(first);
  return {whole_.buffer, whole_.offset_bytes + begin, begin_bytes(last) - begin};
}

ChunkedRegion::ChunkedRegion(const Region& whole, uint64_t chunk_bytes, uint32_t element_size)
    : whole_(whole) {
  const uint64_t elements = std::min(chunk_bytes, kMaxFrameBytes) / element_size;
  chunk_bytes_ = std::max<uint64_t>(elements, 1) * element_size;
  count_ = static_cast<int64_t>((whole.size_bytes + chunk_bytes_ - 1) / chunk_bytes_);
}

Region ChunkedRegion::operator[](int64_t chunk) const {
  const uint64_t begin = static_cast<uint64_t>(chunk) * chunk_bytes_;
  return {whole_.buffer, whole_.offset_bytes + begin,
          std::min(chunk_bytes_, whole_.size_bytes - begin)};
}

}  // namespace fastgpu
