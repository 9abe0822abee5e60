// Buffer credits: how the two ends of a pair of rings share their buffers.
#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "unit/shm_ends.h"

namespace fastgpu::test {
namespace {

constexpr std::size_t kFrameBytes = 64;

// A pair of ends. A frame takes one slot, and its payload repeats the number of the frame.
class Pair {
 public:
  explicit Pair(const ShmRingConfig& config) : Pair(config, config) {}
  Pair(const ShmRingConfig& first, const ShmRingConfig& second)
      : rings_{create_shm_ring(first), create_shm_ring(second)} {
    for (std::size_t end : {0U, 1U}) {
      const auto end_state = make_shm_end();
      ends_[end].sender =
          make_shm_sender(copy_of(rings_[end]), make_bell(), end_state, nullptr, [](uint32_t) {});
      ends_[end].receiver = make_shm_receiver(copy_of(rings_[1 - end]), make_bell(), end_state,
                                              std::make_shared<PeerSegments>());
    }
  }

  const UniqueFd& ring(std::size_t end) const { return rings_[end]; }
  std::size_t unread(std::size_t end) const { return ends_[end].unread.size(); }

  // An inline frame needs no buffer.
  bool send(std::size_t end, bool is_inline = false) {
    std::array<uint64_t, kFrameBytes / 8> payload{};
    payload.fill(++number_);
    Outgoing frame{.header = {.size_bytes = is_inline ? kInlineBytes : kFrameBytes},
                   .payload = reinterpret_cast<const std::byte*>(payload.data())};
    ends_[end].sender->try_send(frame);
    if (frame.done) ends_[1 - end].unread.push_back(number_);
    return frame.done;
  }

  bool receive(std::size_t end) {
    std::array<uint64_t, kFrameBytes / 8> target{};
    FrameHeader header;
    if (ends_[end].receiver->peek(header) != Io::kMoved) return false;
    Incoming incoming{.target = reinterpret_cast<std::byte*>(target.data()),
                      .size_bytes = header.size_bytes};
    ends_[end].receiver->try_recv(incoming);
    const uint64_t expected = ends_[end].unread.front();
    ends_[end].unread.pop_front();
    return incoming.done &&
           std::ranges::count(target, expected) == static_cast<long>(header.size_bytes / 8);
  }

 private:
  struct End {
    std::unique_ptr<SendChannel> sender;
    std::unique_ptr<RecvChannel> receiver;
    std::deque<uint64_t> unread;  // numbers of the frames to receive
  };

  std::array<UniqueFd, 2> rings_;
  std::array<End, 2> ends_;
  uint64_t number_ = 0;
};

BufferName name_in(const ShmRing& ring, uint64_t slot) {
  BufferName name;
  std::memcpy(&name, ring.line(slot).inline_bytes.data(), sizeof name);
  return name;
}

TEST(an_end_writes_into_the_buffer_that_it_has_read) {
  Pair pair({});
  const ShmRing first(pair.ring(0));
  const ShmRing second(pair.ring(1));
  for (uint64_t turn = 0; turn < 20; ++turn) {
    CHECK(pair.send(0));
    CHECK(pair.send(1));
    CHECK(pair.receive(0));
    CHECK(pair.receive(1));
    // From the second turn on the two buffers change ends in every turn.
    const BufferName there = name_in(first, turn);
    const BufferName back = name_in(second, turn);
    CHECK_EQ(there.of_receiver, static_cast<uint32_t>(turn % 2));
    CHECK_EQ(back.of_receiver, static_cast<uint32_t>(turn % 2));
    CHECK(there.buffer == name_in(first, 0).buffer && back.buffer == name_in(second, 0).buffer);
  }
}

TEST(a_one_way_sender_gets_its_buffers_back) {
  constexpr uint32_t kSlots = 8;
  Pair pair({.slots = kSlots});
  CHECK(pair.send(1) && pair.receive(0));  // the other end sends, too, and so has buffers
  const ShmRing ring(pair.ring(0));
  for (uint64_t turn = 0; turn < 100; ++turn) {
    CHECK(pair.send(0));
    if (turn > 0) CHECK_EQ(name_in(ring, turn).of_receiver, 0U);
    CHECK(pair.receive(1));
  }
}

void walk(uint32_t slots, unsigned seed) {
  std::mt19937 random(seed);
  Pair pair({.slots = slots, .buffer_bytes = kFrameBytes, .reply_slots = 0});
  const std::array<ShmRing, 2> rings{ShmRing(pair.ring(0)), ShmRing(pair.ring(1))};
  std::array<uint64_t, 2> sent{};
  std::array<double, 4> weights{};
  for (double& weight : weights) weight = 1 + static_cast<double>(random() % 8);
  std::discrete_distribution<int> pick(weights.begin(), weights.end());
  for (int step = 0; step < 2000; ++step) {
    const int action = pick(random);
    const auto end = static_cast<std::size_t>(action % 2);
    if (action < 2) {
      const uint64_t taken = sent[end] - rings[end].words().consumed.load();
      CHECK_EQ(pair.send(end, random() % 4 == 0), taken < slots);
      if (taken < slots) ++sent[end];
    } else if (pair.unread(end) > 0) {
      CHECK(pair.receive(end));
    }
  }
}

// In any order of sends and receives, a sender has room unless the receiver has reported too few
// slots as consumed.
TEST(a_free_slot_has_a_buffer) {
  for (const uint32_t slots : {1U, 2U, 4U, 8U, 32U}) {
    for (unsigned seed = 0; seed < 20; ++seed) walk(slots, seed);
  }
}

TEST(a_broken_peer_cannot_name_a_missing_buffer) {
  Ends ends({});
  const ShmRing ring(ends.ring);
  std::array<std::byte, 100> target{};
  const auto name_buffer = [&](BufferName name) {
    ring.line(0).header.size_bytes = target.size();
    std::memcpy(ring.line(0).inline_bytes.data(), &name, sizeof name);
    ring.line(0).flag.store(flag_of(0));
  };
  name_buffer({.buffer = ring.buffers(), .of_receiver = 0});
  CHECK_THROWS(ends.receive(target), PeerLostError, "buffer 16 of its own ring");
  name_buffer({.buffer = 0, .of_receiver = 1});  // this end has no ring to send by
  CHECK_THROWS(ends.receive(target), PeerLostError, "buffer 0 of the receiver's ring");
  ring.words().returns.fill(0xff);
  ring.words().returned.store(uint64_t{1} << 63);  // missing buffers are ignored
  for (uint32_t n = 0; n < ring.slots(); ++n) CHECK(ends.send(target));
  CHECK(!ends.send(target));
  ring.words().returns.fill(0);  // naming one buffer many times harms only the peer
  ring.words().returned.fetch_add(uint64_t{1} << 62);
  ring.words().consumed.store(ring.slots());
  for (uint32_t n = 0; n < ring.slots(); ++n) CHECK(ends.send(target));
  CHECK(!ends.send(target));
  ring.words().consumed.store(1'000'000);  // more than was sent: ignored
  CHECK(!ends.send(target));
}

TEST(a_peer_with_other_buffers_is_refused) {
  for (const std::size_t sends : {0U, 1U}) {
    Pair pair({.buffer_bytes = 64}, {.buffer_bytes = 128});
    CHECK(pair.send(sends));
    CHECK(pair.send(1 - sends));
    CHECK_THROWS(pair.receive(1 - sends), PeerLostError,
                 sends == 0 ? "buffers of 64 bytes" : "buffers of 128 bytes");
  }
}

}  // namespace
}  // namespace fastgpu::test
