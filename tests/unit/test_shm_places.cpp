// Payloads that do not go through a ring's buffers: in symmetric memory, in stages, and in the
// sender's private memory.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/page.h"
#include "check.h"
#include "kernels/reduce.h"
#include "unit/shm_ends.h"

namespace fastgpu::test {
namespace {

Sink sum_floats() {
  return {.reduce = find_reduce(DType::kFloat32, ReduceOp::kSum),
          .reduce_both = find_reduce_both(DType::kFloat32, ReduceOp::kSum),
          .element_size = sizeof(float)};
}

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
  CHECK_EQ(ends.receiver->try_recv(incoming), Io::kBlocked);  // the segment has not come
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
  CHECK_EQ(ends.shared.size(), 1U);  // once is enough
}

// Only the answer that was asked for is written in the same pass, and only the sum's own bytes.
TEST(an_answer_may_be_written_while_it_is_summed) {
  constexpr std::size_t kCount = 100'000;
  constexpr std::size_t kSize = kCount * sizeof(float);
  for (const uint32_t answers : {0U, 3U, 4U}) {
    SymmetricHeap heap;
    auto* theirs = reinterpret_cast<float*>(heap.allocate(kSize + sizeof(float)));
    std::fill_n(theirs, kCount + 1, 2.0F);
    std::vector<float> mine(kCount, 1.0F);
    Ends ends({}, &heap);
    ends.segments->add(0, heap.descriptor(0));
    Outgoing frame{.header = {.size_bytes = kSize},
                   .payload = reinterpret_cast<std::byte*>(theirs),
                   .answer = 4};
    Incoming incoming{.target = reinterpret_cast<std::byte*>(mine.data()),
                      .size_bytes = kSize,
                      .sink = sum_floats(),
                      .answers = answers};
    FrameHeader header;
    CHECK_EQ(ends.sender->try_send(frame), Io::kMoved);
    CHECK_EQ(ends.receiver->peek(header), Io::kMoved);
    while (!incoming.done) CHECK_EQ(ends.receiver->try_recv(incoming), Io::kMoved);
    const bool answered = answers == 4;
    CHECK_EQ(incoming.answered, answered);
    CHECK_EQ(incoming.answer, 4U);
    CHECK(mine == std::vector<float>(kCount, 3.0F));
    CHECK(std::all_of(theirs, theirs + kCount,
                      [&](float value) { return value == (answered ? 3.0F : 2.0F); }));
    CHECK_EQ(theirs[kCount], 2.0F);
  }
}

// The sender's memory may have changed since, so it does not count.
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

// A large payload that stays is read in the sender's memory, and the frame is done when it was
// read.
TEST(private_memory_is_read_where_it_lies) {
  constexpr std::size_t kSize = 600 * 1024;
  for (const bool reads : {true, false}) {
    Ends ends({.slots = 32, .slot_bytes = 32 * 1024, .single_copy = reads});
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

// As memory of a device driver, say, which copies but which the kernel does not read for others.
TEST(private_memory_that_cannot_be_read_goes_through_the_slots) {
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
  ::mprotect(pages + 16 * page, page, PROT_NONE);  // and if it shows only now
  std::vector<std::byte> target(32 * page);
  Incoming incoming{.target = target.data(), .size_bytes = target.size()};
  FrameHeader header;
  CHECK_EQ(ends.receiver->peek(header), Io::kMoved);
  CHECK_THROWS(ends.receiver->try_recv(incoming), AbortedError, "refuses to copy");
  ends.sender->hang_up();
  CHECK_EQ(ends.receiver->try_recv(incoming), Io::kClosed);
  ::munmap(pages, 32 * page);
}

// The sender's memory may have changed since, so it does not count.
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

// The two channels between two ranks that add float32 numbers, as one lane has them.
struct Pair {
  explicit Pair(const ShmRingConfig& config) : there(config), back(config) {}

  Outgoing ask(std::span<const float> values) const {
    Outgoing frame{.header = {.size_bytes = values.size_bytes()},
                   .payload = reinterpret_cast<const std::byte*>(values.data()),
                   .answer = 1};
    CHECK_EQ(there.sender->try_send(frame), Io::kMoved);
    CHECK(frame.done);
    return frame;
  }
  Incoming add_into(std::span<float> sums, uint32_t answers) const {
    Incoming incoming{.target = reinterpret_cast<std::byte*>(sums.data()),
                      .size_bytes = sums.size_bytes(),
                      .sink = sum_floats(),
                      .answers = answers};
    FrameHeader header;
    CHECK_EQ(there.receiver->peek(header), Io::kMoved);
    while (!incoming.done) CHECK_EQ(there.receiver->try_recv(incoming), Io::kMoved);
    return incoming;
  }
  void answer(const Incoming& asked, std::span<const float> sums) const {
    Outgoing frame{.header = {.size_bytes = sums.size_bytes()},
                   .payload = reinterpret_cast<const std::byte*>(sums.data()),
                   .progress = asked.answered ? sums.size_bytes() : 0,
                   .place = asked.place};
    CHECK_EQ(back.sender->try_send(frame), Io::kMoved);
    CHECK(frame.done);
  }
  void receive(std::span<float> target, const Outgoing& asked) const {
    Incoming incoming{.target = reinterpret_cast<std::byte*>(target.data()),
                      .size_bytes = target.size_bytes(),
                      .staged = asked.staged};
    FrameHeader header;
    CHECK_EQ(back.receiver->peek(header), Io::kMoved);
    CHECK_EQ(back.receiver->try_recv(incoming), Io::kMoved);
    CHECK(incoming.done);
  }

  Ends there;
  Ends back;
};

TEST(an_answer_comes_back_over_its_stage) {
  constexpr std::size_t kCount = 5000;
  const Pair pair({.stages = 1});
  for (const uint32_t answers : {0U, 1U}) {  // twice: the one stage was given back
    std::vector<float> theirs(kCount, 2.0F);
    std::vector<float> mine(kCount, 1.0F);
    const Outgoing asked = pair.ask(theirs);
    CHECK(asked.staged != nullptr);
    const Incoming incoming = pair.add_into(mine, answers);
    CHECK_EQ(incoming.answered, answers == 1);
    CHECK_EQ(incoming.answer, 1U);
    CHECK(mine == std::vector<float>(kCount, 3.0F));
    CHECK(theirs == std::vector<float>(kCount, 2.0F));  // not the receiver's to write
    pair.answer(incoming, mine);
    pair.receive(theirs, asked);
    CHECK(theirs == mine);
    pair.there.sender->reclaim(asked.staged);
  }
}

TEST(without_a_free_stage_frames_go_as_any_other) {
  const Pair pair({.stages = 2, .stage_bytes = 4096});
  std::vector<float> sums(1024);
  const std::vector<float> ones(1024, 1.0F);
  const Outgoing first = pair.ask(ones);
  CHECK(first.staged != nullptr);
  CHECK(pair.ask(ones).staged != nullptr);
  CHECK(pair.ask(ones).staged == nullptr);
  CHECK(pair.add_into(sums, 1).answered);
  pair.there.sender->reclaim(first.staged);
  CHECK_EQ(pair.ask(ones).staged, first.staged);
  for (int i = 0; i < 3; ++i) pair.add_into(sums, 0);
  CHECK(sums == std::vector<float>(1024, 4.0F));
  const std::vector<float> large(1025, 1.0F);  // larger than a stage
  CHECK(pair.ask(large).staged == nullptr);
}

}  // namespace
}  // namespace fastgpu::test
