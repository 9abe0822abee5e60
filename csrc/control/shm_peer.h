// Shared memory between this process and one peer process on the same host: doorbells, symmetric
// memory, and the rings of all their groups.
//
// Ownership: the channels belong to their communicators. Threading: the event loop's thread.
// Invariants:
// 1. A ring carries data only after its sender has the doorbell of the receiver.
// 2. The two channels of a lane share a ShmEnd only if both were passed over the same connection.
//    Otherwise a second peer process could read data meant for the first.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "control/message.h"
#include "control/registry.h"
#include "memory/symmetric_heap.h"
#include "transport/shm/shm.h"
#include "transport/wait/poller.h"

namespace fastgpu {

class ShmPeer {
 public:
  // Passes a segment of this process's symmetric memory to the peer. Called on any thread.
  using ShareSegment = std::function<void(uint32_t segment)>;

  // The engine sleeps in the poller `engine`. Memory of the heap may be sent by reference.
  ShmPeer(Registry& registry, Poller& engine, const SymmetricHeap& heap, ShareSegment share)
      : registry_(registry), engine_(engine), heap_(heap), share_(std::move(share)) {}

  // Descriptors to pass to the peer. Raise OutOfResourcesError if none is left.
  std::vector<UniqueFd> own_doorbell() const;
  UniqueFd segment(uint32_t number) const { return heap_.descriptor(number); }

  // Each raises PeerLostError for a message that breaks the protocol. take_ring() makes a receiver
  // for the ring in `message`. `sender` is the id of the peer process, from the kernel.
  void take_doorbell(ControlMessage& message);
  void take_segment(ControlMessage& message);
  void take_ring(ControlMessage& message, pid_t sender);
  // add_ring() queues a ring. make_senders() gives the sender of each queued ring to its
  // communicator; the peer's doorbell must have arrived.
  void add_ring(const PairKey& pair, int lane, UniqueFd ring);
  void make_senders();

  // The communicator has ended.
  void forget(const MemberKey& key);
  // The connection has ended. The doorbell stays, because rings that arrived before may still be
  // held.
  void disconnect();

 private:
  struct Ring {
    PairKey pair;
    int lane = 0;
    UniqueFd memory;
  };
  std::shared_ptr<ShmEnd> end_of(const PairKey& pair, int lane);

  Registry& registry_;
  Poller& engine_;
  const SymmetricHeap& heap_;
  const ShareSegment share_;
  std::shared_ptr<Doorbell> doorbell_;  // the peer's
  std::shared_ptr<PeerSegments> segments_;
  std::map<std::pair<PairKey, int>, std::weak_ptr<ShmEnd>> ends_;  // by pair and lane
  std::vector<Ring> waiting_;
};

}  // namespace fastgpu
