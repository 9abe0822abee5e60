// Payloads that the receiver reads in the sender's memory: by reference, and by a single copy.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/page.h"
#include "check.h"
#include "unit/shm_ends.h"

namespace fastgpu::test {
namespace {

TEST(symmetric_frames_are_done_when_the_receiver_is) {
  SymmetricHeap heap;
  constexpr std::size_t kSize = 600 * 1024;
  std::byte* memory = heap.allocate(kSize);
  std::memset(memory, 9, kSize);
  Ends ends({}, &heap);
  std::vector<std::byte> target(kSize);
  Outgoing frame{.header = {.size_bytes = kSize}, .payload = memory};
  Incoming incoming{.target = target.data(), .size_bytes = kSize};
  FrameHeader header;
  CHECK_EQ(ends.sender->try_send(frame), Io::kMoved);
  CHECK_EQ(ends.shared.size(), 1U);
  CHECK_EQ(ends.receiver->peek(header), Io::kMoved);
  CHECK_EQ(ends.receiver->try_recv(incoming), Io::kBlocked);  // the segment has not arrived
  ends.segments->add(0, heap.descriptor(0));
  while (!incoming.done) {
    CHECK_EQ(ends.sender->try_send(frame), Io::kBlocked);
    CHECK(!frame.done);
    CHECK(!rang(*ends.sender_bell));
    CHECK_EQ(ends.receiver->try_recv(incoming), Io::kMoved);
  }
  CHECK(rang(*ends.sender_bell));
  CHECK_EQ(ends.sender->try_send(frame), Io::kMoved);
  CHECK(frame.done);
  CHECK_EQ(target[kSize - 1], std::byte{9});
  CHECK(!ends.send({memory, kSize}));
  CHECK_EQ(ends.shared.size(), 1U);  // passed once
}

// The sender may have changed the memory since.
TEST(symmetric_memory_does_not_count_after_a_hang_up) {
  SymmetricHeap heap;
  std::byte* memory = heap.allocate(10'000);
  Ends ends({}, &heap);
  ends.segments->add(0, heap.descriptor(0));
  CHECK(!ends.send({memory, 10'000}));
  ends.sender->hang_up();
  std::vector<std::byte> target(10'000);
  Incoming incoming{.target = target.data(), .size_bytes = 10'000};
  FrameHeader header;
  CHECK_EQ(ends.receiver->peek(header), Io::kMoved);
  CHECK_EQ(ends.receiver->try_recv(incoming), Io::kClosed);
  CHECK(!incoming.done);
}

// By a single copy, after which the frame has left; through buffers where the ring does not allow
// it.
TEST(private_memory_is_read_by_a_single_copy) {
  constexpr std::size_t kSize = 600 * 1024;
  for (const bool reads : {true, false}) {
    Ends ends({.slots = 32, .buffer_bytes = 32 * 1024, .single_copy = reads});
    const std::vector<std::byte> memory(kSize, std::byte{9});
    std::vector<std::byte> target(kSize);
    Outgoing frame{.header = {.size_bytes = kSize}, .payload = memory.data(), .single_copy = true};
    Incoming incoming{.target = target.data(), .size_bytes = kSize};
    FrameHeader header;
    CHECK_EQ(ends.sender->try_send(frame), Io::kMoved);
    CHECK_EQ(frame.done, !reads);
    CHECK_EQ(ends.receiver->peek(header), Io::kMoved);
    while (!incoming.done) {
      CHECK_EQ(frame.done, !reads);
      CHECK_EQ(ends.receiver->try_recv(incoming), Io::kMoved);
      if (!frame.done) ends.sender->try_send(frame);
    }
    CHECK(frame.done);
    CHECK(target == memory);
  }
}

// For example memory that a device driver has mapped: only the process itself can read it.
TEST(private_memory_that_others_cannot_read_goes_through_buffers) {
  const std::size_t page = page_bytes();
  auto* pages = static_cast<std::byte*>(
      ::mmap(nullptr, 32 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  Ends ends({});
  Outgoing frame{.header = {.size_bytes = 32 * page}, .payload = pages, .single_copy = true};
  ::mprotect(pages + 31 * page, page, PROT_NONE);
  CHECK(!is_readable_by_others(pages, 32 * page));
  CHECK(is_readable_by_others(pages, 31 * page));
  ::mprotect(pages + 31 * page, page, PROT_READ);
  CHECK_EQ(ends.sender->try_send(frame), Io::kMoved);
  CHECK(frame.taken);
  ::mprotect(pages + 16 * page, page, PROT_NONE);  // after the frame was sent
  std::vector<std::byte> target(32 * page);
  Incoming incoming{.target = target.data(), .size_bytes = target.size()};
  FrameHeader header;
  CHECK_EQ(ends.receiver->peek(header), Io::kMoved);
  CHECK_THROWS(ends.receiver->try_recv(incoming), AbortedError, "refuses to copy");
  ends.sender->hang_up();
  CHECK_EQ(ends.receiver->try_recv(incoming), Io::kClosed);
  ::munmap(pages, 32 * page);
}

// The sender may have changed the memory since.
TEST(private_memory_does_not_count_after_a_hang_up) {
  Ends ends({});
  const std::vector<std::byte> memory(100'000);
  std::vector<std::byte> target(memory.size());
  Outgoing frame{
      .header = {.size_bytes = memory.size()}, .payload = memory.data(), .single_copy = true};
  ends.sender->try_send(frame);
  ends.sender->hang_up();
  Incoming incoming{.target = target.data(), .size_bytes = target.size()};
  FrameHeader header;
  CHECK_EQ(ends.receiver->peek(header), Io::kMoved);
  CHECK_EQ(ends.receiver->try_recv(incoming), Io::kClosed);
  CHECK(!incoming.done);
}

}  // namespace
}  // namespace fastgpu::test
