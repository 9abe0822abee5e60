// Connects the ranks of this process with their peers. Tells a rank when a peer leaves, fails or is
// lost, and tells the peers when a rank leaves or fails.
//
// The connector owns one control thread with its event loop, and ties together what runs there:
//   Listener -> PendingConnections -> PeerLink    connections that peers open
//   Dialler  -> PeerLink, StreamOpener            connections that this process opens
//   PeerLink -> ShmPeer -> Registry               control messages become channels and departures
//
// All communicators share the links. A link opens before the first channel to a process, and stays
// open until that process ends.
//
// Peers can connect while the engine is busy or asleep, because the control thread touches no data.
//
// Ownership: one connector for each process. Channels belong to the communicator that gets them.
// Threading: all public calls from any thread. Sinks are called on the control thread.
// Invariants:
// 1. There is at most one link to a process (two if some groups reach it by unix socket, and others
//    over TCP). The end of a link loses the ranks of that process in every communicator that uses
//    the link.
// 2. The control thread never waits for a peer.
// 3. A violation of the protocol ends the connection on which it happened, and no other.
// 4. If this process runs out of a resource, its communicators fail, and their peers are told the
//    reason. No peer is declared lost because of it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

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
  // How long after kLeave the last channels of a peer may arrive.
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
  // Call before a communicator is announced to its peers, which will open at most `connections`
  // connections.
  void expect_connections(std::size_t connections);
  // Whether this process can map memory of the process that listens on `unix_name`. Blocks until
  // the answer or the deadline. Raises OutOfResourcesError.
  bool probe(const std::string& unix_name, TimeNs deadline);

  // Call before this rank writes its leader to the store (docs/wire.md, "Rendezvous"). After that,
  // peers may send messages for the communicator, which are held until attach(). `peers` is by
  // rank; only the process names are used.
  void expect(const MemberKey& key, std::vector<PeerAddress> peers);
  // Attaches the communicator: `sink` is now told about its peers. `peers` is by rank.
  void attach(const MemberKey& key, std::shared_ptr<ConnectionSink> sink,
              std::vector<PeerAddress> peers);
  // Opens the channel of one lane to a peer. Then the sink gets the channel, or a call of
  // on_departed() or on_failed().
  void open(const PairKey& pair, int lane);
  // Passes a segment of this process's memory of a GPU to a peer on this host. A failure is
  // reported to the sink.
  void pass_device_segment(const PairKey& pair, uint32_t segment, uint64_t size_bytes,
                           UniqueFd descriptor);
  // Answers pass_device_segment() of the peer: the kernels of this rank can read the segment.
  void confirm_device_segment(const PairKey& pair, uint32_t segment);
  // Tells every linked peer that this communicator failed.
  void fail(const MemberKey& key, const Failure& failure);
  // Tells every linked peer that this rank leaves, and forgets the communicator. `why` completes
  // "rank 3 has left the group: ...". Waits for the control thread to do so, but at most a second;
  // if it takes longer, the sink may still be called after this returns.
  // With `dials` it also links with some peers to tell them, and those that link later hear `why`:
  // it is for a process that may end at once.
  void detach(const MemberKey& key, const std::string& why, bool dials = false);

 private:
  void run_and_wait(const std::function<void()>& command, TimeNs deadline);
  void take_connection(Link link, ControlMessage first);
  void take_hello(Link link, ControlMessage hello);
  void take_stream(Link link, const ControlMessage& message);
  void open_channel(const PairKey& pair, int lane);
  void with_link(const PairKey& pair, const std::function<void(PeerLink& link)>& body);
  PeerLink& link_of(const LinkKey& key);
  void ensure_link(const PeerAddress& address);
  void on_dialled(const LinkKey& key, UniqueFd socket, const Failure& why);
  void watch(const LinkKey& key);
  void on_event(const LinkKey& key);
  void guard(const LinkKey& key, const std::function<void(PeerLink& link)>& body);
  void end_link(const LinkKey& key, const std::string& why);
  void drop(const LinkKey& key);
  void resume(const MemberKey& key);
  void leave(const MemberKey& key, const std::string& why, bool dials);
  void await_dials(TimeNs deadline);
  void tell_peers(const MemberKey& key,
                  const std::function<void(PeerLink& link, const PairKey& pair)>& tell);

  Poller& engine_;
  const SymmetricHeap& heap_;

  // Only the control thread uses these fields, except where their headers allow more. The order
  // matters for destruction: watches must end before loop_.
  EventLoop loop_;
  Registry registry_;
  Dialler dialler_;
  StreamOpener opener_;
  PendingConnections pending_;
  Listener listener_;
  std::map<LinkKey, PeerLink> links_;
  std::string last_reason_;  // given to the last detach() that dialled
  std::thread thread_;
};

}  // namespace fastgpu
