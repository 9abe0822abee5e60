// Accepted connections, from accept until a communicator takes them. The first message of a
// connection says what it is for: a probe is answered at once; a hello or a stream is handed to its
// communicator, or waits ("is parked") while that communicator does not exist here yet.
//
// Ownership: owns the links of these connections. Threading: the event loop's thread.
// Invariants:
// 1. Of a parked connection only the first message was read.
// 2. There are at most `limit` connections here; the oldest is closed to make room for a new one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>

#include "control/event_loop.h"
#include "control/link.h"
#include "control/registry.h"

namespace fastgpu {

class PendingConnections {
 public:
  using IsKnown = std::function<bool(const MemberKey& key)>;
  using Taken = std::function<void(Link link, ControlMessage first)>;

  // `is_known` says whether a communicator exists here. `taken` gets its connections, with a first
  // message that is kHello, or kStream over TCP.
  PendingConnections(EventLoop& loop, IsKnown is_known, Taken taken,
                     std::size_t limit = default_limit());

  void add(Link link);
  // Hands over the parked connections of a communicator that exists now.
  void resume(const MemberKey& key);
  // Closes the oldest connection; returns false if there is none.
  bool drop_oldest();
  std::size_t size() const noexcept { return connections_.size(); }

  // 4096, or half the descriptors that this process may open, if that is less.
  static std::size_t default_limit();

 private:
  struct Connection {
    Link link;
    std::optional<ControlMessage> first;  // parked
    EventLoop::Watch watch;               // after link: destroyed before it
  };

  void read_first(uint64_t id);
  void sort(uint64_t id, ControlMessage first);
  void take(uint64_t id, ControlMessage first);

  EventLoop& loop_;
  const IsKnown is_known_;
  const Taken taken_;
  const std::size_t limit_;
  uint64_t next_id_ = 1;
  bool has_dropped_ = false;                    // and this was logged
  std::map<uint64_t, Connection> connections_;  // in the order of their arrival
};

}  // namespace fastgpu
