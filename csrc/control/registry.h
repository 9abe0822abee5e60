// The communicators of this process and their peers: the channels that were opened, and the peers
// that left or are lost. Each communicator is told through a ConnectionSink.
//
// A communicator is first expected, then attached. No peer opens a channel or sends a message for a
// communicator before this process expects it, because each rank waits at the rendezvous until all
// others expect it.
//
// Ownership: shares the sinks with their communicators.
// Threading: the event loop's thread.
// Invariants:
// 1. on_departed() is called at most once for each peer.
// 2. A peer that leaves in order counts as departed when every channel that it opened has arrived.
//    If a channel does not arrive within `leave_limit`, the peer is lost.
// 3. A peer opens each lane at most once.
// 4. Only expect(), attach() and detach() change a communicator that is not attached.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "control/dialler.h"
#include "control/event_loop.h"
#include "control/message.h"
#include "transport/channel.h"

namespace fastgpu {

// How a communicator is told about its peers. Called on the control thread: must not block, and
// must not call Connector::attach() or detach().
class ConnectionSink {
 public:
  virtual ~ConnectionSink() = default;
  virtual void on_sender(int peer, int lane, std::unique_ptr<SendChannel> channel) = 0;
  // Raises PeerLostError for a lane that does not exist: its connection is then closed.
  virtual void on_receiver(int peer, int lane, std::unique_ptr<RecvChannel> channel) = 0;
  // The peer left in order, or is lost; `why` completes "rank 3 has left the group: ..." or "rank 3
  // was lost: ...".
  virtual void on_departed(int peer, bool in_order, const std::string& why) = 0;
  // `peer` reports the failure; kNoRank if this process does.
  virtual void on_failed(int peer, const Failure& failure) = 0;
  // A segment of the peer's memory of a GPU. Raises PeerLostError if nobody expects one.
  virtual void on_device_segment(int peer, uint32_t segment, uint64_t size_bytes,
                                 UniqueFd descriptor) = 0;
  // The peer's kernels can read a segment of this rank's. Raises PeerLostError if it was not
  // passed.
  virtual void on_device_segment_mapped(int peer, uint32_t segment) = 0;
};

class Registry {
 public:
  enum class State : uint8_t { kUnknown, kExpected, kAttached };

  Registry(EventLoop& loop, TimeNs leave_limit) : loop_(loop), leave_limit_(leave_limit) {}

  // `addresses` is by rank; expect() uses only the process names.
  void expect(const MemberKey& key, std::vector<PeerAddress> addresses);
  void attach(const MemberKey& key, std::shared_ptr<ConnectionSink> sink,
              std::vector<PeerAddress> addresses);
  void detach(const MemberKey& key) { members_.erase(key); }
  State state(const MemberKey& key) const;

  // Whether a peer may use the link. The peers of a communicator that is only expected may use
  // either kind of link.
  bool knows(const LinkKey& link) const;
  // The peers of an attached communicator that have not departed.
  std::vector<PairKey> peers_of(const MemberKey& key) const;
  // The peers, in all attached communicators, that the link reaches and that have not departed.
  std::vector<PairKey> peers_behind(const LinkKey& link) const;
  // How to reach the peer; nullptr if it has departed, or is no peer of an attached communicator.
  const PeerAddress* find(const PairKey& pair) const;
  // Raises PeerLostError if the attached communicator has no such peer.
  void check_peer(const PairKey& pair) const;
  // Likewise, and also if the peer is not at the other end of the link.
  void check_peer(const PairKey& pair, const LinkKey& link) const;

  // This rank opened a channel to the peer; the sink gets it.
  void channel_opened(const PairKey& pair, int lane, std::unique_ptr<SendChannel> channel);
  // Counts one more channel opened to the peer. kLeave carries the count, opened().
  void count_opened(const PairKey& pair);
  uint32_t opened(const PairKey& pair) const;
  // The peer opened a channel. Raises PeerLostError if it had opened that lane before, or
  // if the sink does.
  void channel_arrived(const PairKey& pair, int lane, std::unique_ptr<RecvChannel> channel);

  void device_segment_arrived(const PairKey& pair, ControlMessage message);
  void device_segment_mapped(const PairKey& pair, uint32_t segment);

  // kLeave has arrived: the peer leaves, and has opened `opened` channels. Later calls are ignored.
  void leave(const PairKey& pair, uint32_t opened, const std::string& why);
  // The link with the peer's process ended. The peer is lost, unless kLeave had arrived.
  void link_ended(const PairKey& pair, const std::string& why);
  void lose(const PairKey& pair, const std::string& why);
  // This process cannot connect to the peer or serve its connection. If this process ran out of a
  // resource, the communicator fails; else the peer is lost.
  void give_up(const PairKey& pair, const Failure& why);
  // The same for each communicator that has a peer in the link's process. A communicator that is
  // expected, and not attached yet, fails when it is attached.
  void give_up(const LinkKey& link, const Failure& why);
  // This process ran out of a resource, so all its communicators fail.
  void fail_all(const Failure& why);
  // The peer reports that the communicator failed. If failure.peer does not exist, the peer itself
  // becomes the suspect.
  void fail(const PairKey& pair, Failure failure);

 private:
  struct Peer {
    uint32_t opened = 0;                   // channels, by this rank
    std::set<int> arrived;                 // lanes of the channels that the peer opened
    std::optional<uint32_t> leaves_after;  // from kLeave: channels that the peer opened
    std::string leaves_why;
    bool has_departed = false;
  };
  struct Member {
    std::shared_ptr<ConnectionSink> sink;  // nullptr while it is expected
    std::vector<PeerAddress> addresses;    // by rank
    std::vector<Peer> peers;               // by rank
    std::optional<Failure> failed_early;   // while it was expected
  };

  Member* member_of(const PairKey& pair);
  const Member* member_of(const PairKey& pair) const;
  void lose_incomplete(const PairKey& pair);
  static bool has_peer_behind(const Member& member, const LinkKey& link);
  static void fail(Member& member, const Failure& why);
  static void depart_if_complete(Member& member, int peer);
  static void depart(Member& member, int peer, bool in_order, const std::string& why);

  EventLoop& loop_;
  const TimeNs leave_limit_;
  std::map<MemberKey, Member> members_;
};

}  // namespace fastgpu
