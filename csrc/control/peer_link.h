// The control link to a peer process: one connection, which carries the control messages of all
// communicators with ranks in both processes. It speaks the protocol of docs/wire.md, "Control
// messages".
//
// A process dials the link before it opens its first channel to the peer process, unless the peer
// has dialled. The link lasts until one of the processes ends. Messages queue until it is open. If
// both processes dial at once, the connection of the process with the smaller name becomes the
// link. A process needs no connection to itself: its messages are handed back to it.
//
// Ownership: owns its connection; each channel belongs to its communicator.
// Threading: the event loop's thread.
// Invariants:
// 1. A violation of the protocol by the peer raises PeerLostError; then the link must be closed. If
//    this process runs out of a resource, OutOfResourcesError is raised, and the link stays usable.
// 2. Only the hello is sent before the link is open. So if both processes dial, either connection
//    can be dropped without losing a message.
// 3. A message for an attached communicator must come `from` a rank of the peer process.
// 4. Messages for an expected communicator are held, in order, until it is attached.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "control/event_loop.h"
#include "control/link.h"
#include "control/registry.h"
#include "control/shm_peer.h"

namespace fastgpu {

class PeerLink {
 public:
  enum class State : uint8_t { kIdle, kDialling, kOpen };
  enum class Next : uint8_t {
    kWait,  // nothing more to read now
    kMore,  // there may be more to read: call on_event() again soon
    kEnd,   // the connection has ended
  };
  // Posts a message from this process to itself; handle() then receives it.
  using HandBack = std::function<void(ControlMessage message)>;

  static constexpr std::size_t kMostHeld = 1024;  // messages

  // `name` is the process name of this process.
  PeerLink(LinkKey key, std::string name, Registry& registry, Poller& engine,
           const SymmetricHeap& heap, ShmPeer::ShareSegment share);

  State state() const noexcept { return state_; }
  int fd() const noexcept { return link_.fd(); }
  void set_watch(EventLoop::Watch watch) { watch_ = std::move(watch); }

  // The caller has begun to dial. It calls connect() next, unless accept() comes first.
  void set_dialling() noexcept { state_ = State::kDialling; }
  void connect(UniqueFd socket);
  // The peer has dialled. Returns false if its connection does not become the link: the link is
  // open already, or the connection of this process has precedence.
  bool accept(Link link, ControlMessage hello);
  void open_to_self(HandBack hand_back);
  // Closes the connection. Held messages stay.
  void close();

  // These queue their message until the link is open, or drop it in state kIdle. None blocks.
  void open_ring(const PairKey& pair, int lane);
  void send_segment(uint32_t segment);
  void send_device_segment(const PairKey& pair, uint32_t segment, uint64_t size_bytes,
                           UniqueFd descriptor);
  void confirm_device_segment(const PairKey& pair, uint32_t segment);
  void send_failure(const PairKey& pair, const Failure& failure);
  void send_leave(const PairKey& pair, const std::string& why);

  Next on_event();
  void handle(ControlMessage message);
  // Handles the messages held for a communicator that is attached now, or has ended.
  void resume(const MemberKey& key);
  bool holds_any() const noexcept { return !held_.empty(); }
  // The communicator has ended.
  void forget(const MemberKey& key) { shm_.forget(key); }

 private:
  void send(ControlMessage message);
  bool try_flush();
  // Makes a kHello or kWelcome.
  ControlMessage greeting(ControlKind kind) const;
  void take_doorbell(ControlMessage& message);
  void open();
  void handle_welcome(ControlMessage message);
  void handle_refusal(const Failure& failure);
  void handle_member(ControlMessage message);
  void hold(ControlMessage message);

  const LinkKey key_;
  const std::string name_;
  Registry& registry_;
  ShmPeer shm_;
  State state_ = State::kIdle;
  Link link_;
  EventLoop::Watch watch_;  // after link_: destroyed before it
  Link spare_;              // the peer's connection, if not used; kept until the link is open
  HandBack hand_back_;
  std::deque<ControlMessage> waiting_;  // to send when the link is open
  std::vector<ControlMessage> held_;
  std::set<uint32_t> sent_segments_;
};

}  // namespace fastgpu
