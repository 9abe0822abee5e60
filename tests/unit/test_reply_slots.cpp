// Replies that are written in place, through both channels of a pair of ranks and by themselves.
#include <algorithm>
#include <span>
#include <vector>

#include "check.h"
#include "kernels/reduce.h"
#include "transport/shm/end.h"
#include "unit/shm_ends.h"

namespace fastgpu::test {
namespace {

Sink sum_floats() {
  return {.reduce = find_reduce(DType::kFloat32, ReduceOp::kSum),
          .reduce_both = find_reduce_both(DType::kFloat32, ReduceOp::kSum),
          .element_size = sizeof(float)};
}

// The two channels between two ranks that add float32 numbers, as one lane has them. Every frame
// takes one slot.
class Pair {
 public:
  explicit Pair(const ShmRingConfig& config)
      : there_(config, nullptr, asking_, replying_), back_(config, nullptr, replying_, asking_) {}

  // Returns how the payload went. Its reply is the frame `ordinal` of the other rank.
  SlotKind ask(std::span<const float> values, uint32_t ordinal, uint64_t sequence = 1) {
    Outgoing frame{.header = {.sequence = sequence, .size_bytes = values.size_bytes()},
                   .payload = reinterpret_cast<const std::byte*>(values.data()),
                   .reply = ordinal + 1};
    CHECK_EQ(there_.sender->try_send(frame), Io::kMoved);
    CHECK(frame.done);
    return kind_in(there_, asked_++);
  }
  void add_into(std::span<float> sums, uint32_t replies_with) const {
    Incoming incoming{.target = reinterpret_cast<std::byte*>(sums.data()),
                      .size_bytes = sums.size_bytes(),
                      .sink = sum_floats(),
                      .replies_with = replies_with};
    FrameHeader header;
    CHECK_EQ(there_.receiver->peek(header), Io::kMoved);
    while (!incoming.done) CHECK_EQ(there_.receiver->try_recv(incoming), Io::kMoved);
  }
  SlotKind reply(std::span<const float> sums, uint32_t ordinal, uint64_t sequence = 1) {
    Outgoing frame{
        .header = {.ordinal = ordinal, .sequence = sequence, .size_bytes = sums.size_bytes()},
        .payload = reinterpret_cast<const std::byte*>(sums.data())};
    CHECK_EQ(back_.sender->try_send(frame), Io::kMoved);
    CHECK(frame.done);
    return kind_in(back_, replied_++);
  }
  void receive(std::span<float> target) const {
    Incoming incoming{.target = reinterpret_cast<std::byte*>(target.data()),
                      .size_bytes = target.size_bytes()};
    FrameHeader header;
    CHECK_EQ(back_.receiver->peek(header), Io::kMoved);
    CHECK_EQ(back_.receiver->try_recv(incoming), Io::kMoved);
    CHECK(incoming.done);
  }

  // The first number in a reply slot of the rank that asks.
  float number_in(uint32_t reply_slot) const {
    return *reinterpret_cast<const float*>(ShmRing(there_.ring).reply_slot(reply_slot));
  }

 private:
  static SlotKind kind_in(const Ends& ends, uint64_t slot) {
    return kind_of(ShmRing(ends.ring).line(slot).flag.load());
  }

  std::shared_ptr<ShmEnd> asking_ = make_shm_end();
  std::shared_ptr<ShmEnd> replying_ = make_shm_end();
  Ends there_;
  Ends back_;
  uint64_t asked_ = 0;
  uint64_t replied_ = 0;
};

TEST(a_reply_comes_back_through_the_reply_slot) {
  constexpr std::size_t kCount = 5000;
  Pair pair({.reply_slots = 1});
  for (const uint32_t replies_with : {0U, 1U}) {  // twice: the one reply slot is free again
    std::vector<float> theirs(kCount, 2.0F);
    std::vector<float> mine(kCount, 1.0F);
    CHECK_EQ(pair.ask(theirs, 0), SlotKind::kReplySlot);
    pair.add_into(mine, replies_with);
    CHECK_EQ(pair.number_in(0), replies_with == 1 ? 3.0F : 2.0F);
    CHECK(mine == std::vector<float>(kCount, 3.0F));
    CHECK(theirs == std::vector<float>(kCount, 2.0F));  // not the receiver's to write
    CHECK_EQ(pair.reply(mine, 0), SlotKind::kWrittenInPlace);
    pair.receive(theirs);
    CHECK(theirs == mine);
  }
}

TEST(without_a_free_reply_slot_frames_go_through_buffers) {
  Pair pair({.reply_slots = 2, .reply_slot_bytes = 4096});
  std::vector<float> sums(1024, 2.0F);
  const std::vector<float> ones(1024, 1.0F);
  CHECK_EQ(pair.ask(ones, 0), SlotKind::kReplySlot);
  CHECK_EQ(pair.ask(ones, 1), SlotKind::kReplySlot);
  CHECK_EQ(pair.ask(ones, 2), SlotKind::kBytes);
  pair.add_into(sums, 1);
  CHECK_EQ(pair.number_in(0), 3.0F);
  CHECK_EQ(pair.number_in(1), 1.0F);
  CHECK_EQ(pair.reply(sums, 0), SlotKind::kWrittenInPlace);
  std::vector<float> target(1024);
  pair.receive(target);
  CHECK(target == sums);
  CHECK_EQ(pair.ask(ones, 3), SlotKind::kReplySlot);
  CHECK_EQ(pair.number_in(0), 1.0F);
  for (int i = 0; i < 3; ++i) pair.add_into(sums, 0);
  CHECK(sums == std::vector<float>(1024, 6.0F));
  const std::vector<float> large(1025, 1.0F);  // larger than a reply slot
  CHECK_EQ(pair.ask(large, 4), SlotKind::kBytes);
}

// The frame may come as any other, for example because it was sent before the request was read.
TEST(a_reply_slot_is_free_again_however_the_reply_came) {
  Pair pair({.reply_slots = 1});
  const std::vector<float> values(1024, 1.0F);
  std::vector<float> target(1024);
  CHECK_EQ(pair.ask(values, 0), SlotKind::kReplySlot);
  CHECK_EQ(pair.reply(values, 0), SlotKind::kBytes);
  pair.receive(target);
  CHECK(target == values);
  CHECK_EQ(pair.ask(values, 1), SlotKind::kReplySlot);
}

// A failed operation leaves its requests and reply slots behind.
TEST(replies_belong_to_one_operation) {
  Pair pair({.reply_slots = 2});
  const std::vector<float> values(1024, 1.0F);
  const std::vector<float> others(1024, 4.0F);
  std::vector<float> sums(1024, 2.0F);
  std::vector<float> target(1024);
  CHECK_EQ(pair.ask(values, 0), SlotKind::kReplySlot);
  pair.add_into(sums, 0);
  CHECK_EQ(pair.reply(others, 0, 2), SlotKind::kBytes);  // not into the place that 1 asked for
  pair.receive(target);
  CHECK(target == others);
  CHECK_EQ(pair.ask(values, 0, 2), SlotKind::kReplySlot);
  CHECK_EQ(pair.ask(values, 1, 2), SlotKind::kBytes);  // one of them is still reserved
}

TEST(a_later_request_drops_those_of_older_operations) {
  ReplySlots replies;
  std::byte memory{};
  const FrameId first{.sequence = 1, .ordinal = 5, .size_bytes = 64};
  const FrameId second{.sequence = 2, .ordinal = 5, .size_bytes = 64};
  const FrameId third{.sequence = 2, .ordinal = 6, .size_bytes = 64};
  replies.add({.reply = first, .memory = &memory});
  replies.add({.reply = second, .memory = &memory});
  replies.add({.reply = third, .memory = &memory});
  CHECK(!replies.take(first));
  CHECK(!replies.take({.sequence = 2, .ordinal = 5, .size_bytes = 128}));
  CHECK(replies.take(second));
  CHECK(!replies.take(second));
  CHECK(replies.take(third));
}

// Only the reply that was asked for is written in the same pass, and only its own bytes.
TEST(a_reply_in_symmetric_memory_may_be_written_while_it_is_summed) {
  constexpr std::size_t kCount = 100'000;
  constexpr std::size_t kSize = kCount * sizeof(float);
  for (const uint32_t replies_with : {0U, 3U, 4U}) {
    SymmetricHeap heap;
    auto* theirs = reinterpret_cast<float*>(heap.allocate(kSize + sizeof(float)));
    std::fill_n(theirs, kCount + 1, 2.0F);
    std::vector<float> mine(kCount, 1.0F);
    const auto replying = make_shm_end();
    Ends ends({}, &heap, make_shm_end(), replying);
    ends.segments->add(0, heap.descriptor(0));
    Outgoing frame{.header = {.size_bytes = kSize},
                   .payload = reinterpret_cast<std::byte*>(theirs),
                   .reply = 4};
    Incoming incoming{.target = reinterpret_cast<std::byte*>(mine.data()),
                      .size_bytes = kSize,
                      .sink = sum_floats(),
                      .replies_with = replies_with};
    FrameHeader header;
    CHECK_EQ(ends.sender->try_send(frame), Io::kMoved);
    CHECK_EQ(ends.receiver->peek(header), Io::kMoved);
    while (!incoming.done) CHECK_EQ(ends.receiver->try_recv(incoming), Io::kMoved);
    const bool written = replies_with == 4;
    const auto request = replying->replies.take({.sequence = 0, .ordinal = 3, .size_bytes = kSize});
    CHECK(request.has_value());
    CHECK_EQ(request->written, written);
    CHECK(mine == std::vector<float>(kCount, 3.0F));
    CHECK(std::all_of(theirs, theirs + kCount,
                      [&](float value) { return value == (written ? 3.0F : 2.0F); }));
    CHECK_EQ(theirs[kCount], 2.0F);
  }
}

}  // namespace
}  // namespace fastgpu::test
