// The peers that map this rank's memory of a GPU, and the memory of theirs that this rank maps.
//
// set_up() is a collective call. Ranks of a host pass each other a page of their GPUs' memory and
// read it. What they read decides how frames travel between them: in place, or through pinned
// memory. A system that says that GPUs reach each other, and is wrong, is found out here.
//
// Ownership: shared by its communicator and by the control thread; all that the constructor takes
// outlives it. Threading: take_segment() on the control thread, DevicePeers on the polling thread,
// set_up() on a caller's.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "device/heap.h"
#include "engine/device/host_driven/executor.h"
#include "engine/device/host_driven/route.h"

namespace fastgpu {

class Communicator;
class Runtime;
struct Topology;

class MappedPeers final : public DevicePeers {
 public:
  MappedPeers(Runtime& runtime, const Topology& topology, DeviceHeap& heap, int device);

  // Every rank calls it. Raises InvalidArgumentError, on all ranks, if a rank called decline().
  void set_up(Communicator& communicator, DeviceExecutor& executor);
  // In place of set_up(), by a rank that cannot use its GPU for the reason `why`.
  [[noreturn]] static void decline(Communicator& communicator, const Topology& topology,
                                   const std::string& why);

  bool is_set_up() const noexcept { return is_set_up_.load(); }
  // Returns false if this rank cannot map it.
  bool take_segment(int peer, uint32_t segment, const SharedSegment& shared);

  bool maps(int peer) override { return maps_[static_cast<std::size_t>(peer)] != 0; }
  void share(int peer, uint32_t segment) override;
  const PeerDeviceSegments& segments(int peer) override {
    return *segments_[static_cast<std::size_t>(peer)];
  }

  struct Record;  // what a rank tells of itself: mapped_peers.cpp

 private:
  static std::vector<Record> exchange(Communicator& communicator, const Topology& topology,
                                      const Record& mine);
  std::vector<uint8_t> read_pages(Communicator& communicator, DeviceExecutor& executor,
                                  const std::vector<Record>& records);
  void await_segment(Communicator& communicator, int peer);
  bool is_near(int peer) const;

  Runtime& runtime_;
  const Topology& topology_;
  DeviceHeap& heap_;
  std::vector<uint8_t> maps_;                                  // by rank; fixed by set_up()
  std::vector<std::unique_ptr<PeerDeviceSegments>> segments_;  // by rank

  std::atomic<bool> is_set_up_{false};

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::vector<uint8_t> heard_;              // by rank: a segment has arrived
  std::vector<std::set<uint32_t>> shared_;  // by rank
};

}  // namespace fastgpu
