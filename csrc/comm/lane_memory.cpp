#include "comm/lane_memory.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

#include "comm/communicator.h"
#include "comm/runtime.h"

namespace fastgpu {

LaneMemory::Layout::Layout(int world) {
  const auto ranks = static_cast<std::size_t>(world);
  std::size_t end = 0;
  const auto take = [&end](std::size_t bytes) {
    const std::size_t begin = end;
    end = aligned(begin + bytes);
    return begin;
  };
  take(sizeof(device::Control));
  mail = take(sizeof(device::Mail) * kMaxLanes * ranks);
  slots = take(sizeof(uint64_t) * 2 * ranks * device::slots_of(kSmallWords));
  cleared = take(sizeof(uint64_t) * device::kSmallBlocks * ranks);
  operations = take(sizeof(uint64_t) * kMaxLanes);
  small_operations = take(sizeof(uint64_t) * device::kSmallBlocks);
  segments = take(sizeof(std::byte*) * kSegments * ranks);
  size_bytes = end;
}

LaneMemory::LaneMemory(Runtime& runtime, int device, const MemberKey& member, int world,
                       std::size_t staging_bytes)
    : devices_(runtime.devices()),
      heap_(runtime.device_heap(device)),
      retired_words_(runtime.retired_words()),
      member_(member),
      world_(world),
      layout_(world),
      staging_bytes_(staging_bytes),
      pinned_(runtime.pinned_memory(), sizeof(HostWords) + kChunkBytes),
      stream_(devices_, device),
      staging_(heap_, staging_bytes),
      block_(heap_.allocate(layout_.size_bytes)) {
  *words() = {};
  // All words must be 0 before a peer writes any: the ranks exchange the spans later.
  const std::vector<std::byte> zeros(layout_.size_bytes);
  try {
    write(block_, zeros.data(), zeros.size());
  } catch (...) {
    heap_.free(block_);  // no peer knows it
    throw;
  }
}

LaneMemory::~LaneMemory() {
  const Reach reach = reach_.load();
  if (reach == Reach::kOwn) heap_.free(block_);
  if (reach == Reach::kPeers) retired_words_.add(member_, world_, heap_, block_);
}

LaneMemory::Spans LaneMemory::announce() {
  reach_.store(Reach::kPeers);
  return spans();
}

LaneMemory::Spans LaneMemory::spans() const {
  return {.words = *heap_.find(block_, layout_.size_bytes),
          .staging = *heap_.find(staging(), staging_bytes_)};
}

void LaneMemory::set_up(Communicator& communicator, MappedPeers& peers,
                        const std::vector<Spans>& spans) {
  const Spans mine = this->spans();
  for (int peer = 0; peer < world_; ++peer) {
    if (peer == member_.rank) continue;
    peers.share(peer, mine.words.segment);
    peers.share(peer, mine.staging.segment);
  }
  for (int peer = 0; peer < world_; ++peer) {
    const bool is_own = peer == member_.rank;
    const Spans& theirs = spans[static_cast<std::size_t>(peer)];
    const auto map = [&](const SegmentSpan& span, std::size_t size_bytes) {
      return peers.map(communicator, peer, span, size_bytes);
    };
    blocks_.push_back(is_own ? block_ : map(theirs.words, layout_.size_bytes));
    stagings_.push_back(is_own ? staging() : map(theirs.staging, staging_bytes_));
  }
  std::vector<std::byte*> segments(kSegments * stagings_.size());
  for (std::size_t rank = 0; rank < stagings_.size(); ++rank) {
    segments[rank * kSegments] = stagings_[rank];
  }
  const auto bytes = std::as_bytes(std::span(segments));
  write(block_ + layout_.segments, bytes.data(), bytes.size());
}

void LaneMemory::add_segment(int peer, uint32_t segment, const std::byte* base) {
  if (segment + 1 >= kSegments) {
    raise(ErrorKind::kInvalidArgument, "kernels find segments below " +
                                           std::to_string(kSegments - 1) + ", and this one is " +
                                           std::to_string(segment));
  }
  const std::size_t number = static_cast<std::size_t>(peer) * kSegments + segment + 1;
  const auto bytes = std::as_bytes(std::span(&base, 1));
  write(block_ + layout_.segments + number * sizeof base, bytes.data(), bytes.size());
}

std::optional<SegmentSpan> LaneMemory::find(const std::byte* tensor, std::size_t size_bytes) const {
  const auto span = heap_.find(tensor, size_bytes);
  return span && span->segment + 1 < kSegments ? span : std::nullopt;
}

void LaneMemory::write(std::byte* target, const void* bytes, std::size_t size_bytes) {
  const std::lock_guard lock(transfer_mutex_);
  for (std::size_t done = 0; done < size_bytes; done += kChunkBytes) {
    const std::size_t part = std::min(kChunkBytes, size_bytes - done);
    std::memcpy(chunk(), static_cast<const std::byte*>(bytes) + done, part);
    devices_.copy(stream_.handle, target + done, chunk(), part);
    devices_.synchronize(stream_.handle);
  }
}

void LaneMemory::read(void* bytes, const std::byte* source, std::size_t size_bytes) {
  const std::lock_guard lock(transfer_mutex_);
  devices_.copy(stream_.handle, chunk(), source, size_bytes);
  devices_.synchronize(stream_.handle);
  std::memcpy(bytes, chunk(), size_bytes);
}

uint32_t LaneMemory::take_end() noexcept {
  const uint32_t end = 1 + launches_.fetch_add(1) % (kEnds - 1);
  __atomic_store_n(&words()->ended[end], uint64_t{0}, __ATOMIC_RELEASE);
  return end;
}

std::unique_ptr<LentMemory> LaneMemory::upload(const void* bytes, std::size_t size_bytes) {
  auto memory = lend(size_bytes);
  write(memory->get(), bytes, size_bytes);
  return memory;
}

// By a call: only the runtime knows which kernels these are.
void LaneMemory::load_scaling(DType dtype) {
  const std::lock_guard lock(transfer_mutex_);
  const std::size_t size_bytes = size_of(dtype);
  const std::byte* const source = chunk();
  std::byte* const target = chunk() + kChunkBytes / 2;
  std::memset(chunk(), 0, size_bytes);
  devices_.reduce(stream_.handle, {.sources = {&source, 1},
                                   .targets = {&target, 1},
                                   .size_bytes = size_bytes,
                                   .dtype = dtype,
                                   .factor = 0.5});
  devices_.synchronize(stream_.handle);
}

device::Control LaneMemory::failure_record() {
  device::Control found{};
  // Later kernels still announce their calls, and end at once.
  read(&found, block_, offsetof(device::Control, announced));
  return found;
}

device::Group LaneMemory::group(uint64_t timeout_ns, uint32_t end) const {
  device::Group group{};
  group.rank = member_.rank;
  group.world = world_;
  group.patience = timeout_ns;
  group.host_word = &words()->told;
  group.ended = &words()->ended[end];
  for (std::size_t rank = 0; rank < blocks_.size(); ++rank) {
    group.control[rank] = reinterpret_cast<device::Control*>(blocks_[rank]);
  }
  return group;
}

device::LaneArgs LaneMemory::lane_args(uint64_t timeout_ns, uint32_t end) const {
  device::LaneArgs args{};
  args.group = group(timeout_ns, end);
  args.operation = reinterpret_cast<uint64_t*>(block_ + layout_.operations);
  auto* const segments = reinterpret_cast<std::byte**>(block_ + layout_.segments);
  for (std::size_t rank = 0; rank < blocks_.size(); ++rank) {
    args.segments[rank] = segments + rank * kSegments;
    args.mail[rank] = reinterpret_cast<device::Mail*>(blocks_[rank] + layout_.mail);
  }
  return args;
}

device::SmallArgs LaneMemory::small_args(uint64_t timeout_ns, uint32_t end) const {
  device::SmallArgs args{};
  args.group = group(timeout_ns, end);
  args.capacity = kSmallWords;
  args.operation = reinterpret_cast<uint64_t*>(block_ + layout_.small_operations);
  for (std::size_t rank = 0; rank < blocks_.size(); ++rank) {
    args.slots[rank] = reinterpret_cast<uint64_t*>(blocks_[rank] + layout_.slots);
    args.cleared[rank] = reinterpret_cast<uint64_t*>(blocks_[rank] + layout_.cleared);
  }
  return args;
}

}  // namespace fastgpu
