#include "comm/mapped_peers.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <new>
#include <span>
#include <utility>

#include "base/log.h"
#include "base/text.h"
#include "comm/communicator.h"
#include "comm/gather.h"
#include "comm/runtime.h"
#include "comm/topology.h"
#include "control/message.h"

namespace fastgpu {
namespace {

constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kWhyBytes = 400;
// A process numbers its segments from 0, so no honest peer comes near this.
constexpr uint32_t kMostSegments = 4096;

using Page = std::array<uint64_t, kPageBytes / sizeof(uint64_t)>;

// The content of a rank's page. No other rank or group has the same.
Page page_of(int rank, uint64_t group) {
  Page page;
  uint64_t word = group ^ (static_cast<uint64_t>(rank) + 1) * 0x9E3779B97F4A7C15U;
  for (uint64_t& one : page) {
    word = word * 6364136223846793005U + 1442695040888963407U;
    one = word;
  }
  return page;
}

}  // namespace

struct MappedPeers::Record {
  uint8_t is_usable = 0;
  uint8_t shares = 0;                 // the page can be passed to other processes
  std::array<char, kWhyBytes> why{};  // why it is not usable
  uint32_t segment = 0;               // of the page
  uint64_t offset_bytes = 0;
  DeviceCosts costs;
};

static_assert(sizeof(MappedPeers::Record) == 448, "docs/wire.md has the layout");

MappedPeers::MappedPeers(Runtime& runtime, const Topology& topology, int device,
                         std::shared_ptr<FailureLatch> latch)
    : runtime_(runtime),
      topology_(topology),
      heap_(runtime.device_heap(device)),
      latch_(std::move(latch)),
      maps_(topology.records.size()),
      peers_(topology.records.size()) {
  for (std::size_t rank = 0; rank < peers_.size(); ++rank) {
    segments_.push_back(std::make_unique<PeerDeviceSegments>(runtime.devices(), device));
  }
}

bool MappedPeers::is_on_my_host(int peer) const {
  const int me = topology_.member.rank;
  return peer != me && topology_.host_of[static_cast<std::size_t>(peer)] ==
                           topology_.host_of[static_cast<std::size_t>(me)];
}

std::vector<MappedPeers::Record> MappedPeers::exchange(Communicator& communicator,
                                                       const Topology& topology,
                                                       const Record& mine) {
  std::vector<Record> records = gather<Record>(communicator, {&mine, 1}, kSetUpOfGpus);
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
  const std::string_view text = cut(why, kWhyBytes - 1);
  std::memcpy(record.why.data(), text.data(), text.size());
  exchange(communicator, topology, record);
  raise(ErrorKind::kInvalidArgument, why);  // not reached: this rank's record raises
}

void MappedPeers::set_up(Communicator& communicator, DeviceExecutor& executor) {
  Record mine;
  std::unique_ptr<LentMemory> page;
  std::string why_not;
  try {
    page = std::make_unique<LentMemory>(heap_, kPageBytes);
    mine = prepare(executor, page->get());
  } catch (const CommError& error) {
    why_not = error.what();
  } catch (const std::bad_alloc&) {
    why_not = "out of memory";
  }
  if (!why_not.empty()) decline(communicator, topology_, why_not);
  const std::vector<Record> records = exchange(communicator, topology_, mine);
  const std::vector<uint8_t> read = read_pages(communicator, executor, records);
  conclude(records, gather<uint8_t>(communicator, read, kSetUpOfGpus));
}

// Fills this rank's page, and describes the GPU for the exchange.
MappedPeers::Record MappedPeers::prepare(DeviceExecutor& executor, std::byte* page) {
  const Page content = page_of(topology_.member.rank, topology_.member.communicator);
  const LentMemory pinned(runtime_.pinned_memory(), kPageBytes);
  std::memcpy(pinned.get(), content.data(), kPageBytes);
  executor.copy(page, pinned.get(), kPageBytes);
  executor.synchronize();
  Record mine;
  mine.is_usable = 1;
  mine.costs = measure_device_costs(executor, heap_, runtime_.pinned_memory());
  if (const auto span = heap_.find(page, kPageBytes)) {
    mine.segment = span->segment;
    mine.offset_bytes = span->offset_bytes;
    try {
      static_cast<void>(heap_.share(span->segment));
      mine.shares = 1;
    } catch (const CommError& error) {
      log(LogLevel::kInfo, "gpu_memory_not_shared", "reason=" + in_quotes(error.what()));
    }
  }
  return mine;
}

// `read` has for each rank what read_pages() returned there.
void MappedPeers::conclude(const std::vector<Record>& records, const std::vector<uint8_t>& read) {
  const std::size_t world = records.size();
  reads_in_place_ = true;
  for (std::size_t peer = 0; peer < world; ++peer) {
    for (std::size_t other = 0; other < world; ++other) {
      const bool same_host = peer != other && topology_.host_of[peer] == topology_.host_of[other];
      if (same_host && read[peer * world + other] == 0) reads_in_place_ = false;
    }
    maps_[peer] = read[peer * world + static_cast<std::size_t>(topology_.member.rank)];
    const DeviceCosts& costs = records[peer].costs;
    costs_.enqueue_us = std::max(costs_.enqueue_us, costs.enqueue_us);
    costs_.passed_us = std::max(costs_.passed_us, costs.passed_us);
    costs_.copy_us_per_byte = std::max(costs_.copy_us_per_byte, costs.copy_us_per_byte);
    costs_.pinned_us_per_byte = std::max(costs_.pinned_us_per_byte, costs.pinned_us_per_byte);
  }
}

// By rank: whether this rank has read the right page in the peer's memory.
std::vector<uint8_t> MappedPeers::read_pages(Communicator& communicator, DeviceExecutor& executor,
                                             const std::vector<Record>& records) {
  const auto world = static_cast<int>(records.size());
  const Record& mine = records[static_cast<std::size_t>(topology_.member.rank)];
  for (int peer = 0; peer < world; ++peer) {
    if (is_on_my_host(peer) && mine.shares != 0) share(peer, mine.segment);
  }
  std::vector<uint8_t> read(records.size());
  const LentMemory pinned(runtime_.pinned_memory(), kPageBytes);
  for (int peer = 0; peer < world; ++peer) {
    const auto index = static_cast<std::size_t>(peer);
    if (!is_on_my_host(peer) || records[index].shares == 0) continue;
    await(communicator, peer, [&] { return peers_[index].is_heard; });
    if (!reads_page(peer, records[index], executor, pinned.get())) continue;
    read[index] = 1;
    std::string unmapped;  // another segment may have failed meanwhile
    {
      const std::lock_guard lock(mutex_);
      peers_[index].is_read = true;
      unmapped = peers_[index].unmapped;
    }
    if (!unmapped.empty()) report_unmapped(peer, unmapped);
  }
  return read;
}

bool MappedPeers::reads_page(int peer, const Record& record, DeviceExecutor& executor,
                             std::byte* pinned) {
  try {
    const std::byte* const page = segments(peer).at(
        {.segment = record.segment, .offset_bytes = record.offset_bytes}, kPageBytes);
    if (page == nullptr) return false;  // it could not be mapped
    executor.copy(pinned, page, kPageBytes);
    executor.synchronize();
    const Page expected = page_of(peer, topology_.member.communicator);
    return std::memcmp(pinned, expected.data(), kPageBytes) == 0;
  } catch (const CommError& error) {
    log(LogLevel::kInfo, "gpu_memory_not_read",
        "peer=" + std::to_string(peer) + " reason=" + in_quotes(error.what()));
    return false;
  }
}

void MappedPeers::await(Communicator& communicator, int peer,
                        const std::function<bool()>& is_there) {
  constexpr auto kInterval = std::chrono::milliseconds(20);
  const TimeNs deadline = deadline_after_ms(communicator.timeout_ms());
  std::unique_lock lock(mutex_);
  while (!is_there()) {
    changed_.wait_for(lock, kInterval);
    if (const Failure* failure = communicator.failure()) raise(*failure);
    if (now_ns() < deadline) continue;
    Failure failure;
    failure.kind = ErrorKind::kTimeout;
    failure.peer = peer;
    failure.op = kSetUpOfGpus;
    failure.message = timed_out_after(communicator.timeout_ms() * kMillisecond) + "waited for " +
                      name_of_rank(topology_, peer) +
                      ", which has not passed the memory of its GPU";
    raise(failure);
  }
}

std::byte* MappedPeers::map(Communicator& communicator, int peer, const SegmentSpan& span,
                            std::size_t size_bytes) {
  const std::byte* memory = nullptr;
  await(communicator, peer, [&] {
    memory = segments(peer).at(span, size_bytes);
    return memory != nullptr;
  });
  return const_cast<std::byte*>(memory);
}

void MappedPeers::take_segment(int peer, uint32_t segment, const SharedSegment& shared) {
  std::string cause;
  try {
    if (segment >= kMostSegments) raise(ErrorKind::kPeerLost, "its number is too large");
    segments_[static_cast<std::size_t>(peer)]->add(segment, shared);
  } catch (const CommError& error) {
    cause = error.what();
    log(LogLevel::kInfo, "gpu_memory_not_mapped",
        "peer=" + std::to_string(peer) + " reason=" + in_quotes(cause));
  }
  bool is_read = false;
  TakeForKernels take;
  {
    const std::lock_guard lock(mutex_);
    Peer& from = peers_[static_cast<std::size_t>(peer)];
    from.is_heard = true;
    if (!cause.empty()) {
      from.unmapped = cause;
    } else if (from.arrived.insert(segment).second) {
      take = take_for_kernels_;
    }
    is_read = from.is_read;
  }
  if (take) tell_kernels(peer, segment, take);
  changed_.notify_all();
  runtime_.engine().wake();  // channels that wait for the segment try again
  if (is_read && !cause.empty()) report_unmapped(peer, cause);
}

void MappedPeers::take_for_kernels(const TakeForKernels& take) {
  std::vector<Peer> before;
  {
    const std::lock_guard lock(mutex_);
    before = peers_;
    take_for_kernels_ = take;
  }
  for (std::size_t peer = 0; peer < before.size(); ++peer) {
    for (const uint32_t segment : before[peer].arrived) {
      tell_kernels(static_cast<int>(peer), segment, take);
    }
  }
}

// If it fails, the peer is told nothing, and goes on passing its tensors through staging memory.
void MappedPeers::tell_kernels(int peer, uint32_t segment, const TakeForKernels& take) {
  try {
    take(peer, segment, segments(peer).at({.segment = segment, .offset_bytes = 0}, 0));
    runtime_.connector().confirm_device_segment({topology_.member, peer}, segment);
  } catch (const CommError& error) {
    log(LogLevel::kInfo, "gpu_memory_unknown_to_kernels",
        "peer=" + std::to_string(peer) + " reason=" + in_quotes(error.what()));
  }
}

void MappedPeers::note_mapped(int peer, uint32_t segment) {
  const std::lock_guard lock(mutex_);
  Peer& by = peers_[static_cast<std::size_t>(peer)];
  if (!by.shared.contains(segment)) {
    raise_violation("rank " + std::to_string(peer) + " says that it has mapped segment " +
                    std::to_string(segment) + " of a GPU, which was not passed to it");
  }
  by.mapped.insert(segment);
}

bool MappedPeers::offer(uint32_t segment) {
  bool is_known = true;
  for (int peer = 0; peer < static_cast<int>(peers_.size()); ++peer) {
    if (!is_on_my_host(peer)) continue;
    share(peer, segment);
    const std::lock_guard lock(mutex_);
    is_known = is_known && peers_[static_cast<std::size_t>(peer)].mapped.contains(segment);
  }
  return is_known;
}

void MappedPeers::report_unmapped(int peer, const std::string& cause) {
  latch_->report(make_failure(
      ErrorKind::kAborted,
      "this rank cannot map memory of the GPU of " + name_of_rank(topology_, peer) + ": " + cause));
}

void MappedPeers::share(int peer, uint32_t segment) {
  {
    const std::lock_guard lock(mutex_);
    if (!peers_[static_cast<std::size_t>(peer)].shared.insert(segment).second) return;
  }
  try {
    SharedSegment shared = heap_.share(segment);
    runtime_.connector().pass_device_segment({topology_.member, peer}, segment, shared.size_bytes,
                                             std::move(shared.fd));
  } catch (...) {
    const std::lock_guard lock(mutex_);
    peers_[static_cast<std::size_t>(peer)].shared.erase(segment);
    throw;
  }
}

}  // namespace fastgpu
