// The control link of one pair of ranks, in the direction in which it was dialled. It speaks the
// protocol of docs/wire.md, "Control messages", from the hello on.
//
// Ownership: owns its connection; the channels that it opens belong to the communicator.
// Threading: the event loop's thread.
// Invariants:
// 1. A violation of the protocol by the peer raises PeerLostError; then the link must be destroyed.
//    A shortage of this process raises OutOfResourcesError, and the link can still be used.
// 2. Only the dialler opens rings and passes segments; only the acceptor sends a welcome, once.
// 3. A ring carries data only after its sender has the doorbell of the receiver.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "control/channel_broker.h"
#include "control/event_loop.h"
#include "control/link.h"
#include "control/registry.h"

namespace fastgpu {

class PeerLink {
 public:
  struct Key {
    PairKey pair;
    bool is_dialled = false;  // by this rank

    auto operator<=>(const Key&) const = default;
  };
  enum class State : uint8_t {
    kOpen,   // nothing more to read now
    kMore,   // there may be more to read: call on_event() again soon
    kEnded,  // the peer closed it, or has left and everything is sent
  };

  PeerLink(const Key& key, Registry& registry, ChannelBroker& broker,
           ChannelBroker::ShareSegment share);

  // The dialler's end: say_hello() comes first, and what is sent before connect() waits.
  void say_hello(bool is_unix);
  void connect(UniqueFd socket, bool is_unix);
  // The acceptor's end: takes the connection on which the hello came.
  void accept(Link link, ControlMessage hello);
  bool is_connected() const noexcept { return link_.is_connected(); }
  int fd() const noexcept { return link_.fd(); }
  void set_watch(EventLoop::Watch watch) { watch_ = std::move(watch); }

  void open_ring(int lane);
  void send_segment(uint32_t segment);
  void send_failure(const Failure& failure);
  // Says goodbye and why; the link has ended (State::kEnded) once that is sent.
  void send_leave(const std::string& why);

  State on_event();

 private:
  ControlMessage message_of(ControlKind kind, uint32_t number = 0) const;
  void send(ControlMessage message);
  bool try_flush();
  State read_messages(bool can_send);
  void handle(ControlMessage message);
  void take_doorbell(ControlMessage& message);
  void handle_fail(ControlMessage message);
  void handle_welcome(ControlMessage message);
  void handle_ring(ControlMessage message);
  void handle_segment(ControlMessage message);
  void make_sender(int lane, UniqueFd ring);

  const Key key_;
  Registry& registry_;
  ChannelBroker& broker_;
  const ChannelBroker::ShareSegment share_;
  Link link_;
  EventLoop::Watch watch_;  // after link_: destroyed before it
  bool is_welcome_ = false;
  bool is_leaving_ = false;
  ChannelBroker::RingPeer peer_;
  std::vector<std::pair<int, UniqueFd>> waiting_rings_;  // by lane; until the welcome
};

}  // namespace fastgpu
