#include <algorithm>

#include "base/cache_lines.h"
#include "check.h"
#include "plan/builders/partition.h"

namespace fastgpu::test {
namespace {

Region whole_of(uint64_t size_bytes) { return {Buffer::kData, 128, size_bytes}; }

}  // namespace

TEST(parts_lie_side_by_side_and_cover_the_whole) {
  for (const uint32_t element : {1u, 3u, 4u, 16u}) {
    for (const uint64_t count : {0u, 1u, 2u, 63u, 64u, 65u, 1000u, 100'003u}) {
      for (const int parts : {1, 2, 3, 7, 64, 1000}) {
        const Region whole = whole_of(count * element);
        const Partition partition(whole, parts, element);
        uint64_t at = whole.offset_bytes;
        for (int part = 0; part < parts; ++part) {
          const Region region = partition[part];
          CHECK_EQ(region.offset_bytes, at);
          CHECK_EQ(region.size_bytes % element, 0u);
          at = region.end_bytes();
        }
        CHECK_EQ(at, whole.end_bytes());
        CHECK(partition.range(0, parts) == whole);
      }
    }
  }
}

TEST(small_parts_differ_by_one_element) {
  const Partition partition(whole_of(11 * 4), 4, 4);
  uint64_t sizes[4];
  for (int part = 0; part < 4; ++part) sizes[part] = partition[part].size_bytes;
  CHECK(std::equal(sizes, sizes + 4,
                   std::begin({uint64_t{12}, uint64_t{12}, uint64_t{12}, uint64_t{8}})));
}

TEST(more_parts_than_elements_leaves_the_last_ones_empty) {
  const Partition partition(whole_of(2 * 8), 5, 8);
  CHECK_EQ(partition[0].size_bytes, 8u);
  CHECK_EQ(partition[1].size_bytes, 8u);
  for (int part = 2; part < 5; ++part) CHECK_EQ(partition[part].size_bytes, 0u);
}

TEST(large_parts_begin_at_cache_lines) {
  const Region whole = whole_of(1'000'003 * 4);
  const Partition partition(whole, 7, 4);
  uint64_t smallest = whole.size_bytes;
  uint64_t largest = 0;
  for (int part = 0; part < 7; ++part) {
    CHECK_EQ((partition[part].offset_bytes - whole.offset_bytes) % kLineBytes, 0u);
    smallest = std::min(smallest, partition[part].size_bytes);
    largest = std::max(largest, partition[part].size_bytes);
  }
  CHECK(largest - smallest <= 2 * kLineBytes);
}

// 65535 parts of 2^62 bytes: no product of the two fits 64 bits.
TEST(the_largest_partition_does_not_overflow) {
  const Region whole{Buffer::kData, 0, uint64_t{1} << 62};
  const Partition partition(whole, 65535, 16);
  CHECK_EQ(partition[65534].end_bytes(), whole.size_bytes);
  CHECK(partition[65534].offset_bytes > whole.size_bytes / 65536 * 65534);
}

TEST(chunks_are_whole_elements) {
  const ChunkedRegion chunks(whole_of(10 * 16), 50, 16);
  CHECK_EQ(chunks.chunk_bytes(), 48u);
  CHECK_EQ(chunks.count(), 4);
  CHECK_EQ(chunks[3].offset_bytes, 128u + 144u);
  CHECK_EQ(chunks[3].size_bytes, 16u);
  CHECK_EQ(ChunkedRegion(whole_of(32), 1, 16).count(), 2);
  CHECK_EQ(ChunkedRegion(whole_of(0), 64, 4).count(), 0);
  CHECK_EQ(ChunkedRegion(whole_of(4 * kMaxFrameBytes), ~uint64_t{0}, 4).chunk_bytes(),
           kMaxFrameBytes);
}

}  // namespace fastgpu::test
