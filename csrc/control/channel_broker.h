// Makes the channels of a communicator from what its peers pass: rings, doorbells, symmetric
// memory and streams.
//
// Ownership: the sink of the communicator gets the channels. The two channels of one lane share
// their ShmEnd, and all links with one process share its doorbell; the broker only knows where
// they are.
// Threading: the event loop's thread.
// Invariant: the two channels of a lane share a ShmEnd only if the same process is at the
// other end of both. Otherwise a process could read data that is meant for another.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "control/registry.h"
#include "memory/symmetric_heap.h"
#include "transport/channel.h"
#include "transport/shm/shm.h"
#include "transport/socket/stream.h"
#include "transport/wait/poller.h"

namespace fastgpu {

class ChannelBroker {
 public:
  // The other end of a ring.
  struct RingPeer {
    PairKey pair;
    pid_t process = 0;
    std::shared_ptr<Doorbell> doorbell;
    std::shared_ptr<PeerSegments> segments;  // of a receiver
  };
  // Passes a segment of this process's symmetric memory to the peer. Called on any thread.
  using ShareSegment = std::function<void(uint32_t segment)>;

  // `engine` sleeps in the poller; the heap's memory may be sent in place.
  ChannelBroker(Poller& engine, const SymmetricHeap& heap) : engine_(engine), heap_(heap) {}

  // To pass to a peer.
  std::vector<UniqueFd> own_doorbell() const;
  // The doorbell that a process has passed. `process` is from the kernel.
  std::shared_ptr<Doorbell> doorbell_of(pid_t process, UniqueFd page, UniqueFd event);
  UniqueFd segment(uint32_t number) const { return heap_.descriptor(number); }

  std::unique_ptr<SendChannel> ring_sender(const RingPeer& peer, int lane, UniqueFd ring,
                                           ShareSegment share);
  std::unique_ptr<RecvChannel> ring_receiver(const RingPeer& peer, int lane, UniqueFd ring);
  std::unique_ptr<SendChannel> stream_sender(std::unique_ptr<Stream> stream);
  std::unique_ptr<RecvChannel> stream_receiver(std::unique_ptr<Stream> stream);

  // Shared by both channels of a lane, and made by the first.
  std::shared_ptr<ShmEnd> end_of(const RingPeer& peer, int lane);

  // A segment of a peer has arrived: receivers that wait for it look again.
  void wake_engine() { engine_.wake(); }
  void forget(const MemberKey& key);

 private:
  using LaneKey = std::tuple<PairKey, int, pid_t>;  // pair, lane, process
  using DoorbellKey = std::pair<pid_t, ino_t>;      // process, inode of the page

  Poller& engine_;
  const SymmetricHeap& heap_;
  std::map<LaneKey, std::weak_ptr<ShmEnd>> ends_;
  std::map<DoorbellKey, std::weak_ptr<Doorbell>> doorbells_;
};

}  // namespace fastgpu
