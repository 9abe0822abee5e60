// Decides which ranks of a host read each other's GPU memory in place, and maps the memory.
//
// set_up() tests it: ranks of a host share a page of their GPUs' memory and compare its bytes,
// because a driver may report access that does not work. Other ranks get payloads through pinned
// memory.
//
// Ownership: Runtime, topology and latch outlive it. Threading: take_segment() on the control
// thread, DevicePeers on the polling thread, set_up() on a caller's.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "comm/device_tuner.h"
#include "device/heap.h"
#include "engine/device/host_driven/executor.h"
#include "engine/device/host_driven/route.h"

namespace fastgpu {

class Communicator;
class Runtime;
struct Topology;

class MappedPeers final : public DevicePeers {
 public:
  struct Record;  // a rank's part of the exchange: mapped_peers.cpp

  MappedPeers(Runtime& runtime, const Topology& topology, int device,
              std::shared_ptr<FailureLatch> latch);

  // Every rank calls it. Raises InvalidArgumentError, on all ranks, if a rank's GPU fails it, or a
  // rank calls decline().
  void set_up(Communicator& communicator, DeviceExecutor& executor);
  // In place of set_up(), by a rank that cannot use its GPU for the reason `why`.
  [[noreturn]] static void decline(Communicator& communicator, const Topology& topology,
                                   const std::string& why);
  // What set_up() has found; the same on every rank.
  Constants constants(const Constants& host) const {
    return constants_with(costs_, host, reads_in_place_);
  }

  // Returns the address of a span that the peer has shared. Comes after set_up(), and only if this
  // rank reads the peer's memory. Waits for the peer; raises like a collective call.
  std::byte* map(Communicator& communicator, int peer, const SegmentSpan& span,
                 std::size_t size_bytes);
  // Whether all ranks of a host read each other's memory; the same on every rank.
  bool reads_in_place() const noexcept { return reads_in_place_; }

  const DeviceCosts& costs() const noexcept { return costs_; }  // the slowest rank's

  // Maps a segment that the peer has shared. If that is impossible, and the peer relies on it, the
  // group fails.
  void take_segment(int peer, uint32_t segment, const SharedSegment& shared);
  // The peer's kernels can read a segment of this rank's. Raises PeerLostError if the segment was
  // not shared with it.
  void note_mapped(int peer, uint32_t segment);

  // After set_up(): `take` makes segments of peers known to the kernels of this rank. It is called
  // at once for those that have arrived, and on the control thread for later ones. The peer is told
  // when its segment is known.
  using TakeForKernels = std::function<void(int peer, uint32_t segment, const std::byte* base)>;
  void take_for_kernels(const TakeForKernels& take);
  // Whether the kernels of all ranks of the host can read the segment. Ranks that have not received
  // the segment get it. Raises DeviceError if this fails.
  bool offer(uint32_t segment);

  bool maps(int peer) override { return maps_[static_cast<std::size_t>(peer)] != 0; }
  void share(int peer, uint32_t segment) override;
  const PeerDeviceSegments& segments(int peer) override {
    return *segments_[static_cast<std::size_t>(peer)];
  }

 private:
  static std::vector<Record> exchange(Communicator& communicator, const Topology& topology,
                                      const Record& mine);
  Record prepare(DeviceExecutor& executor, std::byte* page);
  std::vector<uint8_t> read_pages(Communicator& communicator, DeviceExecutor& executor,
                                  const std::vector<Record>& records);
  bool reads_page(int peer, const Record& record, DeviceExecutor& executor, std::byte* pinned);
  void conclude(const std::vector<Record>& records, const std::vector<uint8_t>& read);
  // `is_there` is called with the lock.
  void await(Communicator& communicator, int peer, const std::function<bool()>& is_there);
  void report_unmapped(int peer, const std::string& cause);
  void tell_kernels(int peer, uint32_t segment, const TakeForKernels& take);
  bool is_on_my_host(int peer) const;

  Runtime& runtime_;
  const Topology& topology_;
  DeviceHeap& heap_;
  const std::shared_ptr<FailureLatch> latch_;
  // Fixed by set_up().
  std::vector<uint8_t> maps_;  // by rank: it reads this rank's memory in place
  DeviceCosts costs_;          // the slowest rank's
  bool reads_in_place_ = false;
  std::vector<std::unique_ptr<PeerDeviceSegments>> segments_;  // by rank

  struct Peer {
    bool is_heard = false;       // a segment of the peer has arrived
    bool is_read = false;        // this rank has announced that it reads the peer's memory in place
    std::string unmapped;        // why this rank could not map a segment of the peer
    std::set<uint32_t> arrived;  // the peer's segments that this rank has mapped
    std::set<uint32_t> shared;   // this rank's segments that were sent to the peer
    std::set<uint32_t> mapped;   // this rank's segments that the peer's kernels can read
  };
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::vector<Peer> peers_;  // by rank
  TakeForKernels take_for_kernels_;
};

}  // namespace fastgpu
