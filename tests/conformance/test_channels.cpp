#include <unistd.h>

#include "channel_suite.h"
#include "transport/memory_channel.h"
#include "transport/shm/shm.h"

namespace fastgpu::test {
namespace {

ChannelParameter memory_parameter(const char* name, std::size_t capacity, std::size_t piece_bytes) {
  return {.name = name,
          .make =
              [capacity, piece_bytes] {
                auto [sender, receiver] = make_memory_channel(capacity, piece_bytes);
                return ChannelEnds{nullptr, std::move(sender), std::move(receiver)};
              },
          .bound_bytes = capacity * 50'000};
}

// The heap of the sending side. It lives as long as the tests.
SymmetricHeap& heap() {
  static SymmetricHeap all;
  return all;
}

Memory symmetric_memory(std::size_t size_bytes) {
  return {heap().allocate(size_bytes), [](std::byte* memory) { heap().free(memory); }};
}

ChannelEnds make_shm_ends(const ShmRingConfig& config) {
  UniqueFd ring = create_shm_ring(config);
  UniqueFd same(::dup(ring.get()));
  auto bell = std::make_shared<Doorbell>(Doorbell::create());
  auto segments = std::make_shared<PeerSegments>();
  auto share = [segments](uint32_t segment) { segments->add(segment, heap().descriptor(segment)); };
  return {nullptr, make_shm_sender(std::move(ring), bell, make_shm_end(), &heap(), share),
          make_shm_receiver(std::move(same), bell, make_shm_end(), segments, nullptr, ::getpid())};
}

ChannelParameter shm_parameter(const char* name, const ShmRingConfig& config) {
  return {.name = name,
          .make = [config] { return make_shm_ends(config); },
          .bound_bytes = uint64_t{config.slots} * config.buffer_bytes};
}

ChannelParameter symmetric_parameter() {
  ChannelParameter parameter = shm_parameter("shm_symmetric", {});
  parameter.allocate = symmetric_memory;
  return parameter;
}

ChannelParameter single_copy_parameter(const char* name, const ShmRingConfig& config) {
  ChannelParameter parameter = shm_parameter(name, config);
  parameter.single_copy = true;
  return parameter;
}

const ChannelSuite kRendezvous(memory_parameter("memory_0", 0, SIZE_MAX));
const ChannelSuite kOne(memory_parameter("memory_1", 1, SIZE_MAX));
const ChannelSuite kFour(memory_parameter("memory_4", 4, SIZE_MAX));
const ChannelSuite kPieces(memory_parameter("memory_pieces", 2, 1001));
const ChannelSuite kShm(shm_parameter("shm", {}));
const ChannelSuite kShmOneSlot(shm_parameter("shm_one_slot", {.slots = 1, .buffer_bytes = 64}));
const ChannelSuite kShmTiny(shm_parameter("shm_tiny", {.slots = 4, .buffer_bytes = 192}));
const ChannelSuite kSymmetric(symmetric_parameter());
const ChannelSuite kSingleCopy(single_copy_parameter("shm_single_copy", {}));
const ChannelSuite kUnreadable(single_copy_parameter("shm_unreadable", {.single_copy = false}));

}  // namespace
}  // namespace fastgpu::test
