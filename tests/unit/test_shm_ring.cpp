// What the suite of all channels cannot see of the shared-memory one: its file, its pieces, when it
// rings, and what a broken peer may write.
#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "kernels/reduce.h"
#include "transport/shm_ring.h"

namespace fastgpu::test {
namespace {

UniqueFd copy_of(const UniqueFd& fd) { return UniqueFd(::dup(fd.get())); }

std::shared_ptr<Doorbell> make_bell() { return std::make_shared<Doorbell>(Doorbell::create()); }

// Whether the owner of the bell was woken since this was called last.
bool rang(Doorbell& bell) {
  uint64_t rings = 0;
  const bool woken = ::read(bell.event_fd(), &rings, sizeof rings) > 0;
  bell.finish_sleep();
  bell.prepare_sleep();
  return woken;
}

TEST(a_ring_cannot_be_resized) {
  const UniqueFd fd = create_shm_ring({});
  CHECK(::ftruncate(fd.get(), 4096) != 0);
  CHECK(::ftruncate(fd.get(), 1 << 30) != 0);
}

TEST(impossible_rings_are_refused) {
  CHECK_THROWS(create_shm_ring({.slots = 3}), InvalidArgumentError, "power of two");
  CHECK_THROWS(create_shm_ring({.slots = 0}), InvalidArgumentError, "power of two");
  CHECK_THROWS(create_shm_ring({.slot_bytes = 100}), InvalidArgumentError, "64 bytes");
  CHECK_THROWS(create_shm_ring({.slot_bytes = 0}), InvalidArgumentError, "64 bytes");
  CHECK_THROWS(create_shm_ring({.stages = 33}), InvalidArgumentError, "32 stages");
  CHECK_THROWS(create_shm_ring({.stage_bytes = 100}), InvalidArgumentError, "64 bytes");
}

TEST(what_is_not_a_ring_is_refused) {
  UniqueFd unsealed(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  CHECK_EQ(::ftruncate(unsealed.get(), 1 << 20), 0);
  CHECK_THROWS(ShmRing{unsealed}, RendezvousError, "is not one");
  CHECK_THROWS(ShmRing{UniqueFd()}, RendezvousError, "is not one");
  CHECK_EQ(::fcntl(unsealed.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
  CHECK_THROWS(ShmRing{unsealed}, RendezvousError, "another layout");
  const UniqueFd ring = create_shm_ring({});
  {
    const ShmRing honest(ring);
    honest.words().slots *= 2;  // as a broken peer might
  }
  CHECK_THROWS(ShmRing{ring}, RendezvousError, "another layout");
}

TEST(pieces_fit_the_slots) {
  const UniqueFd fd = create_shm_ring({.slots = 8, .slot_bytes = 32768});
  const ShmRing ring(fd);
  for (uint64_t size_bytes = 0; size_bytes < 300'000; size_bytes += 37) {
    const uint64_t piece = ring.piece_bytes(size_bytes);
    CHECK_EQ(piece % 64, 0U);
    CHECK(piece > 0 && piece <= 32768);
  }
  CHECK_EQ(ring.piece_bytes(4096), 8192U);    // all of it
  CHECK_EQ(ring.piece_bytes(32768), 16384U);  // one copies in while the other copies out
  CHECK_EQ(ring.piece_bytes(1 << 20), 32768U);
}

struct Ends {
  explicit Ends(const ShmRingConfig& config, const SymmetricHeap* heap = nullptr)
      : ring(create_shm_ring(config)),
        sender(make_shm_sender(copy_of(ring), receiver_bell, heap,
                               [this](uint32_t segment) { shared.push_back(segment); })),
        receiver(make_shm_receiver(copy_of(ring), sender_bell, segments, nullptr, ::getpid())) {
    receiver_bell->prepare_sleep();
    sender_bell->prepare_sleep();
  }

  bool send(std::span<const std::byte> payload) {
    Outgoing frame{.header = {.size_bytes = payload.size()}, .payload = payload.data()};
    sender->try_send(frame);
    return frame.done;
  }
  bool receive(std::span<std::byte> target, CopyKernel copy = nullptr) {
    FrameHeader header;
    Incoming incoming{.target = target.data(), .size_bytes = target.size(), .copy = copy};
    if (receiver->peek(header) == Io::kMoved) receiver->try_recv(incoming);
    return incoming.done;
  }

  std::vector<uint32_t> shared;
  std::shared_ptr<Doorbell> sender_bell = make_bell();
  std::shared_ptr<Doorbell> receiver_bell = make_bell();
  std::shared_ptr<PeerSegments> segments = std::make_shared<PeerSegments>();
  UniqueFd ring;
  std::unique_ptr<SendChannel> sender;
  std::unique_ptr<RecvChannel> receiver;
};

TEST(a_receiver_rings_only_a_sender_that_may_wait) {
  Ends ends({.slots = 4, .slot_bytes = 64});
  std::array<std::byte, 8> token{};
  for (int i = 0; i < 20; ++i) {
    CHECK(ends.send(token));
    CHECK(rang(*ends.receiver_bell));
    CHECK(ends.receive(token));
    CHECK(!rang(*ends.sender_bell));  // there was always room
  }
  for (int i = 0; i < 4; ++i) CHECK(ends.send(token));
  CHECK(!ends.send(token));
  CHECK(ends.receive(token));
  CHECK(rang(*ends.sender_bell));
  ends.sender->hang_up();
  CHECK(rang(*ends.receiver_bell));
  ends.receiver->hang_up();
  CHECK(rang(*ends.sender_bell));
}

TEST(a_receiver_copies_as_it_is_told) {
  SymmetricHeap heap;
  constexpr std::size_t kSize = 8192;
  std::byte* memory = heap.allocate(kSize);
  std::memset(memory, 5, kSize);
  const CopyKernel one_more = [](std::byte* target, const std::byte* source, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) target[i] = std::byte{1} | source[i] << 1;
  };
  for (const bool symmetric : {false, true}) {
    Ends ends({}, &heap);
    const std::vector<std::byte> mine(kSize, std::byte{5});
    ends.send(symmetric ? std::span<const std::byte>(memory, kSize) : mine);
    if (symmetric) {
      CHECK_EQ(ends.shared.size(), 1u);
      ends.segments->add(0, heap.descriptor(0));
    }
    std::vector<std::byte> target(kSize);
    CHECK(ends.receive(target, one_more));
    CHECK(target == std::vector<std::byte>(kSize, std::byte{11}));
  }
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
                      .reduce = find_reduce(DType::kFloat32, ReduceOp::kSum),
                      .element_size = sizeof(float),
                      .answers = answers,
                      .reduce_both = find_reduce_both(DType::kFloat32, ReduceOp::kSum)};
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
                      .reduce = find_reduce(DType::kFloat32, ReduceOp::kSum),
                      .element_size = sizeof(float),
                      .answers = answers,
                      .reduce_both = find_reduce_both(DType::kFloat32, ReduceOp::kSum)};
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

// A large payload that stays is read where it lies, and has left when it was read.
TEST(private_memory_is_read_where_it_lies) {
  constexpr std::size_t kSize = 600 * 1024;
  for (const bool reads : {true, false}) {
    Ends ends({.slots = 32, .slot_bytes = 32 * 1024, .private_reads = reads});
    const std::vector<std::byte> memory(kSize, std::byte{9});
    std::vector<std::byte> target(kSize);
    Outgoing frame{.header = {.size_bytes = kSize}, .payload = memory.data(), .stays = true};
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
  const std::size_t page = static_cast<std::size_t>(::getpagesize());
  auto* pages = static_cast<std::byte*>(
      ::mmap(nullptr, 32 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  Ends ends({});
  Outgoing frame{.header = {.size_bytes = 32 * page}, .payload = pages, .stays = true};
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
  CHECK_THROWS(ends.receiver->try_recv(incoming), PeerLostError, "refuses to read");
  ends.sender->hang_up();
  CHECK_EQ(ends.receiver->try_recv(incoming), Io::kClosed);
  ::munmap(pages, 32 * page);
}

// The sender's memory may have changed since, so it does not count.
TEST(private_memory_does_not_count_after_a_hang_up) {
  Ends ends({});
  const std::vector<std::byte> memory(100'000);
  std::vector<std::byte> target(memory.size());
  Outgoing frame{.header = {.size_bytes = memory.size()}, .payload = memory.data(), .stays = true};
  ends.sender->try_send(frame);
  ends.sender->hang_up();
  Incoming incoming{.target = target.data(), .size_bytes = target.size()};
  FrameHeader header;
  CHECK_EQ(ends.receiver->peek(header), Io::kMoved);
  CHECK_EQ(ends.receiver->try_recv(incoming), Io::kClosed);
  CHECK(!incoming.done);
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

TEST(a_broken_peer_cannot_reach_outside) {
  SymmetricHeap heap;
  heap.allocate(64);
  Ends ends({});
  ends.segments->add(0, heap.descriptor(0));
  const ShmRing ring(ends.ring);
  const SegmentSpan outside{.segment = 0, .answer = 0, .offset_bytes = uint64_t{1} << 60};
  ring.control(0).header.size_bytes = 100;
  std::memcpy(ring.control(0).inline_bytes.data(), &outside, sizeof outside);
  ring.control(0).flag.store(flag_of(0, SlotKind::kReference));
  std::array<std::byte, 100> target{};
  CHECK_THROWS(ends.receive(target), PeerLostError, "outside");
  Ends staged({});
  const ShmRing other(staged.ring);
  const StageSpan no_stage{.stage = 1u << 31, .answer = 1};
  other.control(0).header.size_bytes = 100;
  std::memcpy(other.control(0).inline_bytes.data(), &no_stage, sizeof no_stage);
  other.control(0).flag.store(flag_of(0, SlotKind::kStaged));
  CHECK_THROWS(staged.receive(target), PeerLostError, "outside");
  Ends unasked({});
  const ShmRing third(unasked.ring);
  const StageSpan no_answer{.stage = 0, .answer = 0};  // as if it answered what asks for nothing
  third.control(0).header.size_bytes = 100;
  std::memcpy(third.control(0).inline_bytes.data(), &no_answer, sizeof no_answer);
  third.control(0).flag.store(flag_of(0, SlotKind::kStaged));
  CHECK_THROWS(unasked.receive(target), PeerLostError, "answer 0");
  ring.words().consumed.store(1234567);  // more than was ever sent: no room, no harm
  CHECK(!ends.send(std::vector<std::byte>(1 << 20)));
}

}  // namespace
}  // namespace fastgpu::test
