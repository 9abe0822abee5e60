#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "memory/symmetric_heap.h"

namespace fastgpu::test {
namespace {

bool all_are(const std::byte* memory, std::size_t size_bytes, std::byte value) {
  return size_bytes == 0 ||
         (memory[0] == value && std::memcmp(memory, memory + 1, size_bytes - 1) == 0);
}

TEST(a_peer_reads_what_is_written) {
  SymmetricHeap heap;
  heap.allocate(100);
  std::byte* memory = heap.allocate(5000);
  const auto span = heap.find(memory + 10, 4990);
  CHECK(span.has_value());
  PeerSegments peer;
  CHECK(peer.at(*span, 4990) == nullptr);  // not passed yet
  peer.add(span->segment, heap.descriptor(span->segment));
  peer.add(span->segment, heap.descriptor(span->segment));  // a second time changes nothing
  std::memset(memory, 3, 5000);
  CHECK(all_are(peer.at(*span, 4990), 4990, std::byte{3}));
}

// Both have the same pages: if a child freed an allocation, its parent would read zeros.
TEST(a_forked_child_frees_nothing) {
  SymmetricHeap heap;
  std::byte* memory = heap.allocate(5000);
  std::memset(memory, 3, 5000);
  const pid_t child = ::fork();
  if (child == 0) {
    heap.free(memory);
    heap.revoke(memory);
    ::_exit(0);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  CHECK_EQ(status, 0);
  CHECK(all_are(memory, 5000, std::byte{3}));
  heap.free(memory);
  CHECK(all_are(memory, 4096, std::byte{0}));
}

TEST(only_memory_of_the_heap_is_found) {
  SymmetricHeap heap;
  const std::vector<std::byte> elsewhere(100);
  CHECK(!heap.find(elsewhere.data(), 100));
  std::byte* memory = heap.allocate(100);
  CHECK(!heap.find(elsewhere.data(), 100));
  CHECK(heap.find(memory, 100));
  CHECK(!heap.find(memory, std::size_t{64} << 20 | 1));  // reaches beyond the segment
  CHECK(!heap.find(memory, SIZE_MAX));
}

TEST(a_span_outside_its_segment_is_an_error) {
  SymmetricHeap heap;
  const auto span = heap.find(heap.allocate(64), 64);
  PeerSegments peer;
  peer.add(0, heap.descriptor(0));
  const uint64_t end = uint64_t{64} << 20;
  CHECK(peer.at({.segment = 0, .offset_bytes = end - 64}, 64) != nullptr);
  CHECK_THROWS(peer.at({.segment = 0, .offset_bytes = end - 63}, 64), PeerLostError, "outside");
  CHECK_THROWS(peer.at({.segment = 0, .offset_bytes = UINT64_MAX}, 64), PeerLostError, "outside");
  CHECK_THROWS(peer.at(*span, SIZE_MAX), PeerLostError, "outside");
  CHECK_THROWS(heap.descriptor(1), InvalidArgumentError, "no segment 1");
}

TEST(peers_cannot_reach_revoked_memory) {
  SymmetricHeap heap;
  std::byte* before = heap.allocate(100);
  std::byte* memory = heap.allocate(10000);
  std::byte* after = heap.allocate(100);
  PeerSegments peer;
  peer.add(0, heap.descriptor(0));
  const auto span = heap.find(memory, 10000);
  std::byte* theirs = peer.at(*span, 10000);
  std::memset(memory, 3, 10000);
  std::memset(theirs, 4, 5000);
  CHECK(all_are(memory, 5000, std::byte{4}));  // until now peers reach it
  heap.revoke(memory + 5000);
  heap.revoke(memory);  // a second time changes nothing
  std::memset(theirs, 5, 10000);
  CHECK(all_are(memory, 5000, std::byte{4}));
  CHECK(all_are(memory + 5000, 5000, std::byte{3}));
  std::memset(memory, 6, 10000);
  CHECK(all_are(theirs, 10000, std::byte{5}));
  CHECK(!heap.find(memory, 1));
  CHECK(!heap.find(memory + 9999, 1));
  CHECK(!heap.find(before, 8192));  // reaches into the revoked memory
  CHECK(heap.find(before, 100));
  CHECK(heap.find(after, 100));
  heap.free(memory);
  for (int i = 0; i < 100; ++i) {
    std::byte* other = heap.allocate(10000);
    CHECK(other + 10000 <= memory || other >= memory + 10000);
    CHECK(heap.find(other, 10000));
  }
  heap.revoke(nullptr);
  heap.revoke(memory);
}

TEST(memory_that_could_shrink_is_refused) {
  UniqueFd fd(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  CHECK_EQ(::ftruncate(fd.get(), 4096), 0);
  PeerSegments peer;
  CHECK_THROWS(peer.add(0, std::move(fd)), PeerLostError, "sealed");
}

TEST(segments_grow) {
  SymmetricHeap heap;
  std::byte* first = heap.allocate(std::size_t{60} << 20);
  std::byte* second = heap.allocate(std::size_t{60} << 20);
  std::byte* large = heap.allocate(std::size_t{300} << 20);
  CHECK_EQ(heap.find(first, 1)->segment, 0U);
  CHECK_EQ(heap.find(second, 1)->segment, 1U);
  CHECK_EQ(heap.find(large, std::size_t{300} << 20)->segment, 2U);
  CHECK_EQ(heap.find(heap.allocate(std::size_t{60} << 20), 1)->segment, 1U);
  CHECK_THROWS(heap.allocate(SIZE_MAX - 10), std::bad_alloc, "");
}

// Compares the heap with a plain model: allocations are aligned, zeroed and disjoint, and freed
// ranges are merged.
TEST(allocations_hold_against_a_model) {
  const uint64_t seed = std::random_device{}();
  std::mt19937_64 random(seed);
  try {
    SymmetricHeap heap;
    std::map<std::byte*, std::size_t> live;
    for (int turn = 0; turn < 600; ++turn) {
      if (!live.empty() && random() % 2 == 0) {
        const auto victim = std::next(live.begin(), static_cast<int>(random() % live.size()));
        heap.free(victim->first);
        live.erase(victim);
        continue;
      }
      const std::size_t size_bytes = random() % (std::size_t{1} << (random() % 22));
      std::byte* memory = heap.allocate(size_bytes);
      CHECK_EQ(reinterpret_cast<uintptr_t>(memory) % 64, 0U);
      CHECK(all_are(memory, size_bytes, std::byte{0}));
      const auto after = live.lower_bound(memory);
      CHECK(after == live.end() || memory + size_bytes <= after->first);
      CHECK(after == live.begin() || std::prev(after)->first + std::prev(after)->second <= memory);
      std::memset(memory, 0xff, size_bytes);
      live[memory] = size_bytes;
    }
    for (const auto& [memory, size_bytes] : live) heap.free(memory);
    std::byte* whole = heap.allocate(std::size_t{64} << 20);
    CHECK_EQ(heap.find(whole, std::size_t{64} << 20)->offset_bytes, 0U);
    CHECK_EQ(heap.find(whole, 1)->segment, 0U);
    CHECK(all_are(whole, std::size_t{64} << 20, std::byte{0}));
  } catch (const std::exception& error) {
    throw Failed(std::string(error.what()) + " (seed " + std::to_string(seed) + ")");
  }
}

}  // namespace
}  // namespace fastgpu::test
