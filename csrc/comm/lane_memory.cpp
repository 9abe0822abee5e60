#include "comm/lane_memory.h"

#include <cstring>

#include "comm/communicator.h"
#include "comm/runtime.h"

namespace fastgpu {
namespace {

constexpr std::size_t kAlignment = 512;

std::size_t round_up(std::size_t size_bytes) {
  return (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

LaneMemory::Layout::Layout(int world) {
  const auto ranks = static_cast<std::size_t>(world);
  std::size_t end = 0;
  const auto take = [&end](std::size_t bytes) {
    const std::size_t begin = end;
    end = round_up(begin + bytes);
    return begin;
  };
  take(sizeof(device::Control));
  mail = take(sizeof(device::Mail) * kMaxLanes * ranks);
  slots = take(sizeof(uint64_t) * 2 * ranks * device::slots_of(kSmallWords));
  cleared = take(sizeof(uint64_t) * device::kSmallBlocks * ranks);
  operations = take(sizeof(uint64_t) * kMaxLanes);
  small_operations = take(sizeof(uint64_t) * device::kSmallBlocks);
  windows = take(sizeof(std::byte*) * ranks);
  size_bytes = end;
}

LaneMemory::LaneMemory(Runtime& runtime, int device, int rank, int world)
    : runtime_(runtime),
      devices_(runtime.devices()),
      heap_(runtime.device_heap(device)),
      rank_(rank),
      world_(world),
      layout_(world),
      pinned_(runtime.pinned_memory(), sizeof(Words) + sizeof(device::Control)),
      stream_(devices_.make_stream(device)),
      window_(heap_, kWindowBytes),
      block_(heap_.allocate(layout_.size_bytes)) {
  *words() = {};
  // The words of every rank must be 0 before a peer writes any: the places are exchanged later.
  const LentMemory zeros(runtime.pinned_memory(), layout_.size_bytes);
  std::memset(zeros.get(), 0, layout_.size_bytes);
  copy_and_wait(block_, zeros.get(), layout_.size_bytes);
}

LaneMemory::~LaneMemory() { devices_.destroy(stream_); }

LaneMemory::Places LaneMemory::places() const {
  return {.words = *heap_.find(block_, layout_.size_bytes),
          .window = *heap_.find(window(), kWindowBytes)};
}

void LaneMemory::copy_and_wait(std::byte* target, const std::byte* source, std::size_t size_bytes) {
  devices_.copy(stream_, target, source, size_bytes);
  devices_.synchronize(stream_);
}

void LaneMemory::set_up(Communicator& communicator, MappedPeers& peers,
                        const std::vector<Places>& places) {
  const Places mine = this->places();
  for (int peer = 0; peer < world_; ++peer) {
    if (peer == rank_) continue;
    peers.share(peer, mine.words.segment);
    peers.share(peer, mine.window.segment);
  }
  for (int peer = 0; peer < world_; ++peer) {
    const bool is_own = peer == rank_;
    const Places& place = places[static_cast<std::size_t>(peer)];
    const auto map = [&](const SegmentSpan& span, std::size_t size_bytes) {
      return peers.map(communicator, peer, span, size_bytes);
    };
    blocks_.push_back(is_own ? block_ : map(place.words, layout_.size_bytes));
    windows_.push_back(is_own ? window() : map(place.window, kWindowBytes));
  }
  const std::size_t size_bytes = windows_.size() * sizeof(std::byte*);
  const LentMemory chunk(runtime_.pinned_memory(), size_bytes);
  std::memcpy(chunk.get(), windows_.data(), size_bytes);
  copy_and_wait(block_ + layout_.windows, chunk.get(), size_bytes);
}

std::unique_ptr<LentMemory> LaneMemory::upload(const void* bytes, std::size_t size_bytes) {
  const LentMemory chunk(runtime_.pinned_memory(), size_bytes);
  std::memcpy(chunk.get(), bytes, size_bytes);
  auto memory = std::make_unique<LentMemory>(heap_, size_bytes);
  copy_and_wait(memory->get(), chunk.get(), size_bytes);
  return memory;
}

device::Control LaneMemory::record() {
  device::Control found;
  std::byte* const chunk = pinned_.get() + sizeof(Words);
  copy_and_wait(chunk, block_, sizeof found);
  std::memcpy(&found, chunk, sizeof found);
  return found;
}

device::Group LaneMemory::group(uint64_t patience_ns) const {
  device::Group group{};
  group.rank = rank_;
  group.world = world_;
  group.patience = patience_ns;
  group.host_word = &words()->told;
  group.ended = &words()->ended;
  for (std::size_t rank = 0; rank < blocks_.size(); ++rank) {
    group.control[rank] = reinterpret_cast<device::Control*>(blocks_[rank]);
  }
  return group;
}

device::LaneArgs LaneMemory::lane_args(uint64_t patience_ns) const {
  device::LaneArgs args{};
  args.group = group(patience_ns);
  args.operation = reinterpret_cast<uint64_t*>(block_ + layout_.operations);
  auto* const windows = reinterpret_cast<std::byte**>(block_ + layout_.windows);
  for (std::size_t rank = 0; rank < blocks_.size(); ++rank) {
    args.segments[rank] = windows + rank;  // it has one segment, number 0: the window
    args.mail[rank] = reinterpret_cast<device::Mail*>(blocks_[rank] + layout_.mail);
  }
  return args;
}

device::SmallArgs LaneMemory::small_args(uint64_t patience_ns) const {
  device::SmallArgs args{};
  args.group = group(patience_ns);
  args.capacity = kSmallWords;
  args.operation = reinterpret_cast<uint64_t*>(block_ + layout_.small_operations);
  for (std::size_t rank = 0; rank < blocks_.size(); ++rank) {
    args.slots[rank] = reinterpret_cast<uint64_t*>(blocks_[rank] + layout_.slots);
    args.cleared[rank] = reinterpret_cast<uint64_t*>(blocks_[rank] + layout_.cleared);
  }
  return args;
}

}  // namespace fastgpu
