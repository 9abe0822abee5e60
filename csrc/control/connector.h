// Connects the ranks of this process with their peers. Tells a rank when a peer leaves, fails or is
// lost, and tells the peers when a rank leaves or fails.
//
// The connector owns one control thread with its event loop, and ties together what runs there:
//   Listener -> PendingConnections -> PeerLink    connections that peers open
//   Dialler  -> PeerLink, StreamOpener            connections that this process opens
//   PeerLink -> ChannelBroker -> Registry         control messages become channels and departures
//
// Peers can connect while the engine is busy or asleep, because the control thread touches no data.
//
// Ownership: one connector for each process. Channels belong to the communicator that gets them.
// Threading: all public calls from any thread. Sinks are called on the control thread.
// Invariants:
// 1. There is at most one link for each pair of ranks and direction of dialling.
// 2. The control thread never waits for a peer.
// 3. A violation of the protocol ends the connection on which it happened, and no other.
// 4. A shortage of this process fails its communicators, whose peers are told the reason. No peer
//    is declared lost because of it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "control/channel_broker.h"
#include "control/dialler.h"
#include "control/event_loop.h"
#include "control/listener.h"
#include "control/peer_link.h"
#include "control/pending_connections.h"
#include "control/registry.h"
#include "control/stream_opener.h"
#include "memory/symmetric_heap.h"
#include "transport/wait/poller.h"

namespace fastgpu {

class Connector {
 public:
  // How long after the end of a link the last channels of a peer that leaves may arrive.
  static constexpr TimeNs kLeaveLimit = 10 * kSecond;

  Connector(Poller& engine, const SymmetricHeap& heap, TimeNs leave_limit = kLeaveLimit);
  ~Connector();
  Connector(const Connector&) = delete;
  Connector& operator=(const Connector&) = delete;

  const std::string& unix_name() const noexcept { return listener_.unix_name(); }
  // See Listener::listen().
  uint16_t listen(const std::string& address, const PortRange& range) {
    return listener_.listen(address, range);
  }
  // Before a communicator is announced to its peers: they will open up to so many connections.
  void expect(std::size_t connections);
  // Whether this process can map memory of the process that listens on `unix_name`. Blocks until
  // the answer or the deadline. Raises OutOfResourcesError.
  bool probe(const std::string& unix_name, TimeNs deadline) const;

  // Takes part in a communicator as `rank`; `peers` is by rank. Connections that peers have already
  // opened to it are accepted now.
  void attach(uint64_t communicator, int rank, std::shared_ptr<ConnectionSink> sink,
              std::vector<PeerAddress> peers);
  // Opens the channel of one lane to a peer. The sink receives the channel, or is told that the
  // peer departed.
  void open(uint64_t communicator, int rank, int peer, int lane);
  // Tells every linked peer that this communicator failed.
  void fail(uint64_t communicator, int rank, const Failure& failure);
  // Tells every linked peer that this rank leaves, and forgets the communicator. `why` completes
  // "rank 3 has left the group: ...". Waits for the control thread to do so, but at most a second;
  // if it takes longer, the sink may still be called after this returns.
  void detach(uint64_t communicator, int rank, const std::string& why);

 private:
  void run_and_wait(const std::function<void()>& command, TimeNs deadline);
  void take_connection(Link link, ControlMessage first);
  void take_hello(Link link, ControlMessage hello, const PairKey& pair);
  void take_stream(Link link, const ControlMessage& message, const PairKey& pair);
  void open_channel(const PairKey& pair, int lane);
  void ensure_link(const PairKey& pair, const PeerAddress& address);
  void on_dialled(const PeerLink::Key& key, UniqueFd socket, bool is_unix, const Failure& why);
  PeerLink& add_link(const PeerLink::Key& key);
  void watch(const PeerLink::Key& key);
  void on_event(const PeerLink::Key& key);
  void end_link(const PeerLink::Key& key, const std::string& why);
  void on_error(const PairKey& pair, const CommError& error);
  void leave(const MemberKey& key, const std::string& why);
  void for_each_link(const MemberKey& key, const std::function<void(PeerLink&)>& what);

  const TimeNs leave_limit_;

  // Only the control thread uses these fields, except where their headers allow more. The order
  // matters for destruction: watches must end before loop_.
  EventLoop loop_;
  Registry registry_;
  ChannelBroker broker_;
  Dialler dialler_;
  StreamOpener opener_;
  PendingConnections pending_;
  Listener listener_;
  std::map<PeerLink::Key, PeerLink> links_;
  std::thread thread_;
};

}  // namespace fastgpu
