#include "comm/mapped_peers.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <span>

#include "base/log.h"
#include "base/text.h"
#include "comm/communicator.h"
#include "comm/runtime.h"
#include "comm/topology.h"

namespace fastgpu {
namespace {

constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kReasonBytes = 400;
constexpr std::string_view kOp = "set_up_of_gpus";  // the user's call, for errors

using Page = std::array<uint64_t, kPageBytes / sizeof(uint64_t)>;

// What the page of a rank contains: no other rank's, and no other group's.
Page page_of(int rank, uint64_t group) {
  Page page;
  uint64_t word = group ^ (static_cast<uint64_t>(rank) + 1) * 0x9E3779B97F4A7C15U;
  for (uint64_t& one : page) {
    word = word * 6364136223846793005U + 1442695040888963407U;
    one = word;
  }
  return page;
}

// All ranks' `mine`, by rank.
template <typename Value>
std::vector<Value> gather(Communicator& communicator, std::span<const Value> mine) {
  std::vector<Value> all(mine.size() * static_cast<std::size_t>(communicator.world()));
  CollectiveCall call;
  call.shape.collective = Collective::kAllGather;
  call.shape.dtype = DType::kUInt8;
  call.shape.count = mine.size_bytes();
  call.op = kOp;
  call.input = reinterpret_cast<const std::byte*>(mine.data());
  call.data = reinterpret_cast<std::byte*>(all.data());
  call.is_set_up = true;
  const auto work = communicator.run(std::move(call));
  communicator.wait(*work, -1);
  return all;
}

// Memory of a heap and pinned memory, for as long as a page is compared.
class Lent {
 public:
  Lent(Allocator& allocator, std::size_t size_bytes)
      : allocator_(allocator), memory_(allocator.allocate(size_bytes)) {}
  ~Lent() { allocator_.free(memory_); }
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;
  std::byte* memory() const { return memory_; }

 private:
  Allocator& allocator_;
  std::byte* const memory_;
};

}  // namespace

struct MappedPeers::Record {
  uint8_t is_usable = 0;
  uint8_t shares = 0;                    // the page can be passed to other processes
  std::array<char, kReasonBytes> why{};  // it is not usable
  uint32_t segment = 0;                  // of the page
  uint64_t offset_bytes = 0;
};

static_assert(sizeof(MappedPeers::Record) == 416, "docs/wire.md has the layout");

MappedPeers::MappedPeers(Runtime& runtime, const Topology& topology, DeviceHeap& heap, int device)
    : runtime_(runtime), topology_(topology), heap_(heap) {
  const std::size_t world = topology.records.size();
  maps_.resize(world);
  heard_.resize(world);
  shared_.resize(world);
  for (std::size_t rank = 0; rank < world; ++rank) {
    segments_.push_back(std::make_unique<PeerDeviceSegments>(runtime.devices(), device));
  }
}

bool MappedPeers::is_near(int peer) const {
  const int me = topology_.member.rank;
  return peer != me && topology_.host_of[static_cast<std::size_t>(peer)] ==
                           topology_.host_of[static_cast<std::size_t>(me)];
}

std::vector<MappedPeers::Record> MappedPeers::exchange(Communicator& communicator,
                                                       const Topology& topology,
                                                       const Record& mine) {
  std::vector<Record> records = gather<Record>(communicator, {&mine, 1});
  for (std::size_t rank = 0; rank < records.size(); ++rank) {
    Record& record = records[rank];
    if (record.is_usable != 0) continue;
    record.why.back() = '\0';
    raise(ErrorKind::kInvalidArgument, name_of_rank(topology, static_cast<int>(rank)) +
                                           " cannot use its GPU: " + printable(record.why.data()));
  }
  return records;
}

void MappedPeers::decline(Communicator& communicator, const Topology& topology,
                          const std::string& why) {
  Record record;
  const std::string_view text = cut(why, kReasonBytes - 1);
  std::memcpy(record.why.data(), text.data(), text.size());
  exchange(communicator, topology, record);
  raise(ErrorKind::kInvalidArgument, why);  // not reached: this rank's record raises
}

void MappedPeers::set_up(Communicator& communicator, DeviceExecutor& executor) {
  const int me = topology_.member.rank;
  const Page mine = page_of(me, topology_.member.communicator);
  const Lent page(heap_, kPageBytes);
  const Lent pinned(runtime_.pinned_memory(), kPageBytes);
  std::memcpy(pinned.memory(), mine.data(), kPageBytes);
  executor.copy(page.memory(), pinned.memory(), kPageBytes);
  executor.finish();

  Record record;
  record.is_usable = 1;
  if (const auto place = heap_.find(page.memory(), kPageBytes)) {
    record.segment = place->segment;
    record.offset_bytes = place->offset_bytes;
    try {
      static_cast<void>(heap_.share(place->segment));
      record.shares = 1;
    } catch (const CommError& error) {
      log(LogLevel::kInfo, "gpu_memory_not_shared", "reason=" + in_quotes(error.what()));
    }
  }
  const std::vector<Record> records = exchange(communicator, topology_, record);
  const std::vector<uint8_t> read = read_pages(communicator, executor, records);
  const std::vector<uint8_t> all = gather<uint8_t>(communicator, read);
  const std::size_t world = records.size();
  for (std::size_t peer = 0; peer < world; ++peer) {
    maps_[peer] = all[peer * world + static_cast<std::size_t>(me)];
  }
  is_set_up_.store(true);
}

// By rank: whether this rank has read the right page in the peer's memory.
std::vector<uint8_t> MappedPeers::read_pages(Communicator& communicator, DeviceExecutor& executor,
                                             const std::vector<Record>& records) {
  const auto world = static_cast<int>(records.size());
  const Record& mine = records[static_cast<std::size_t>(topology_.member.rank)];
  for (int peer = 0; peer < world; ++peer) {
    if (is_near(peer) && mine.shares != 0) share(peer, mine.segment);
  }
  std::vector<uint8_t> read(records.size());
  const Lent pinned(runtime_.pinned_memory(), kPageBytes);
  for (int peer = 0; peer < world; ++peer) {
    const auto index = static_cast<std::size_t>(peer);
    const Record& record = records[index];
    if (!is_near(peer) || record.shares == 0) continue;
    await_segment(communicator, peer);
    try {
      const std::byte* const page = segments_[index]->at(
          {.segment = record.segment, .offset_bytes = record.offset_bytes}, kPageBytes);
      if (page == nullptr) continue;
      executor.copy(pinned.memory(), page, kPageBytes);
      executor.finish();
      const Page expected = page_of(peer, topology_.member.communicator);
      read[index] = std::memcmp(pinned.memory(), expected.data(), kPageBytes) == 0 ? 1 : 0;
    } catch (const CommError& error) {
      log(LogLevel::kInfo, "gpu_memory_not_read",
          "peer=" + std::to_string(peer) + " reason=" + in_quotes(error.what()));
    }
  }
  return read;
}

void MappedPeers::await_segment(Communicator& communicator, int peer) {
  constexpr auto kLookAgain = std::chrono::milliseconds(20);
  const TimeNs deadline = deadline_after_ms(communicator.timeout_ms());
  std::unique_lock lock(mutex_);
  while (heard_[static_cast<std::size_t>(peer)] == 0) {
    changed_.wait_for(lock, kLookAgain);
    if (const Failure* failure = communicator.failure()) raise(*failure);
    if (now_ns() < deadline) continue;
    Failure failure;
    failure.kind = ErrorKind::kTimeout;
    failure.peer = peer;
    failure.op = kOp;
    failure.message = timed_out_after(communicator.timeout_ms() * kMillisecond) + "waited for " +
                      name_of_rank(topology_, peer) +
                      ", which has not passed the memory of its GPU";
    raise(failure);
  }
}

bool MappedPeers::take_segment(int peer, uint32_t segment, const SharedSegment& shared) {
  bool is_mapped = true;
  try {
    segments_[static_cast<std::size_t>(peer)]->add(segment, shared);
  } catch (const CommError& error) {
    is_mapped = false;
    log(LogLevel::kInfo, "gpu_memory_not_mapped",
        "peer=" + std::to_string(peer) + " reason=" + in_quotes(error.what()));
  }
  {
    const std::lock_guard lock(mutex_);
    heard_[static_cast<std::size_t>(peer)] = 1;
  }
  changed_.notify_all();
  runtime_.engine().wake();  // channels that wait for the segment look again
  return is_mapped;
}

void MappedPeers::share(int peer, uint32_t segment) {
  {
    const std::lock_guard lock(mutex_);
    if (!shared_[static_cast<std::size_t>(peer)].insert(segment).second) return;
  }
  SharedSegment shared = heap_.share(segment);
  runtime_.connector().pass_device_segment({topology_.member, peer}, segment, shared.size_bytes,
                                           std::move(shared.fd));
}

}  // namespace fastgpu
