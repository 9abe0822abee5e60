// The shared-memory channel, beyond the suite of all channels: the file, the pieces, the doorbells,
// and broken peers.
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
  CHECK_THROWS(create_shm_ring({.buffer_bytes = 100}), InvalidArgumentError, "64 bytes");
  CHECK_THROWS(create_shm_ring({.buffer_bytes = 0}), InvalidArgumentError, "64 bytes");
  CHECK_THROWS(create_shm_ring({.reply_slots = 33}), InvalidArgumentError, "32 reply slots");
  CHECK_THROWS(create_shm_ring({.reply_slot_bytes = 100}), InvalidArgumentError, "64 bytes");
}

TEST(other_files_are_refused) {
  UniqueFd unsealed(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  CHECK_EQ(::ftruncate(unsealed.get(), 1 << 20), 0);
  CHECK_THROWS(ShmRing{unsealed}, RendezvousError, "not a shared-memory ring");
  CHECK_THROWS(ShmRing{UniqueFd()}, RendezvousError, "not a shared-memory ring");
  CHECK_EQ(::fcntl(unsealed.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
  CHECK_THROWS(ShmRing{unsealed}, RendezvousError, "another layout");
  const UniqueFd ring = create_shm_ring({});
  {
    const ShmRing honest(ring);
    honest.words().slots *= 2;  // as a broken peer may do
  }
  CHECK_THROWS(ShmRing{ring}, RendezvousError, "another layout");
}

TEST(pieces_fit_the_slots) {
  const UniqueFd fd = create_shm_ring({.slots = 8, .buffer_bytes = 32768});
  const ShmRing ring(fd);
  for (uint64_t size_bytes = 0; size_bytes < 300'000; size_bytes += 37) {
    const uint64_t piece = ring.piece_bytes(size_bytes);
    CHECK_EQ(piece % 64, 0U);
    CHECK(piece > 0 && piece <= 32768);
  }
  CHECK_EQ(ring.piece_bytes(4096), 8192U);    // one piece
  CHECK_EQ(ring.piece_bytes(32768), 16384U);  // copied in and out at the same time
  CHECK_EQ(ring.piece_bytes(1 << 20), 32768U);
}

TEST(a_receiver_rings_only_if_the_ring_was_full) {
  Ends ends({.slots = 4, .buffer_bytes = 64});
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

TEST(a_receiver_stores_by_the_kernel_that_it_is_given) {
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
  const ReferenceSpan outside{.segment = 0, .reply = 0, .offset_bytes = uint64_t{1} << 60};
  ring.line(0).header.size_bytes = 100;
  std::memcpy(ring.line(0).inline_bytes.data(), &outside, sizeof outside);
  ring.line(0).flag.store(flag_of(0, SlotKind::kReference));
  std::array<std::byte, 100> target{};
  CHECK_THROWS(ends.receive(target), PeerLostError, "outside");
  Ends requests({});
  const ShmRing other(requests.ring);
  const ReplySlotSpan no_slot{.reply_slot = 1u << 31, .reply = 1};
  other.line(0).header.size_bytes = 100;
  std::memcpy(other.line(0).inline_bytes.data(), &no_slot, sizeof no_slot);
  other.line(0).flag.store(flag_of(0, SlotKind::kReplySlot));
  CHECK_THROWS(requests.receive(target), PeerLostError, "outside");
  Ends unasked({});
  const ShmRing third(unasked.ring);
  const ReplySlotSpan no_reply{.reply_slot = 0, .reply = 0};  // but asks for no reply
  third.line(0).header.size_bytes = 100;
  std::memcpy(third.line(0).inline_bytes.data(), &no_reply, sizeof no_reply);
  third.line(0).flag.store(flag_of(0, SlotKind::kReplySlot));
  CHECK_THROWS(unasked.receive(target), PeerLostError, "reply 0");
  ring.words().consumed.store(1234567);  // more than was ever sent: no room, and no harm
  CHECK(!ends.send(std::vector<std::byte>(1 << 20)));
}

}  // namespace
}  // namespace fastgpu::test
