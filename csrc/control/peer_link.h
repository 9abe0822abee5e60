// The control link with a process: one connection for the messages of all communicators that this
// process shares with it. It speaks the protocol of docs/wire.md, "Control messages".
//
// A link is opened by the first message to the process, or by that process, and lasts as long as
// both. Messages wait in it until it is open. If both processes dial at once, the connection of the
// process with the smaller name becomes the link. A process needs no connection to itself: its
// messages are handed back to it.
//
// Ownership: owns its connection; the channels that it opens belong to their communicators.
// Threading: the event loop's thread.
// Invariants:
// 1. A violation of the protocol by the peer raises PeerLostError; then the link must be closed. A
//    shortage of this process raises OutOfResourcesError, and the link can still be used.
// 2. Nothing but the hello leaves before the link is open, so a connection can be exchanged for the
//    other one without loss.
// 3. The peer speaks for its own ranks only.
// 4. Messages of a communicator that is expected are held until it is attached, in their order.
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
  // Posts a message of this process to itself; handle() gets it.
  using HandBack = std::function<void(ControlMessage message)>;

  static constexpr std::size_t kMostHeld = 1024;  // messages

  // `name` is this process's.
  PeerLink(LinkKey key, std::string name, Registry& registry, Poller& engine,
           const SymmetricHeap& heap, ShmPeer::ShareSegment share);

  State state() const noexcept { return state_; }
  int fd() const noexcept { return link_.fd(); }
  void set_watch(EventLoop::Watch watch) { watch_ = std::move(watch); }

  // The caller dials: connect() follows, unless accept() comes first.
  void set_dialling() noexcept { state_ = State::kDialling; }
  void connect(UniqueFd socket);
  // The peer has dialled. Returns false if its connection is not wanted, or not yet, because that
  // of this process comes first.
  bool accept(Link link, ControlMessage hello);
  void open_to_self(HandBack hand_back);
  // Ends the connection. What is held stays.
  void close();

  // Each waits until the link is open.
  void open_ring(const PairKey& pair, int lane);
  void send_segment(uint32_t segment);
  void send_failure(const PairKey& pair, const Failure& failure);
  void send_leave(const PairKey& pair, const std::string& why);

  Next on_event();
  void handle(ControlMessage message);
  // Handles what was held for a communicator that is attached now, or drops it if it is unknown.
  void resume(const MemberKey& key);
  bool holds_any() const noexcept { return !held_.empty(); }
  // The communicator has ended.
  void forget(const MemberKey& key) { shm_.forget(key); }

 private:
  void send(ControlMessage message);
  bool try_flush();
  // A hello or welcome.
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
  Link spare_;              // the peer's connection that lost; open until the peer knows that
  HandBack hand_back_;
  std::deque<ControlMessage> waiting_;  // until the link is open
  std::vector<ControlMessage> held_;
  std::set<uint32_t> sent_segments_;
};

}  // namespace fastgpu
