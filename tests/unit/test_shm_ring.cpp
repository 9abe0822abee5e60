// Properties of the shared-memory channel that the suite for all channels does not test: its file,
// its pieces, its wake-ups, and its checks of a broken peer.
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
#include "transport/shm/ring.h"
#include "unit/shm_ends.h"

namespace fastgpu::test {
namespace {

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
  CHECK_EQ(ring.piece_bytes(32768), 16384U);  // so that both ends copy at once
  CHECK_EQ(ring.piece_bytes(1 << 20), 32768U);
}

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
