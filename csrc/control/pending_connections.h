// Accepted connections until their first message. A kProbe is answered here. A kHello is handed
// over. A kStream is handed over if its communicator is attached, and is *parked* while the
// communicator is only expected.
//
// Anybody who can reach the port may connect, so the number of connections and the time that each
// may take are limited.
// Ownership: owns the links of these connections. Threading: the event loop's thread.
// Invariants:
// 1. Of a parked connection only the first message was read.
// 2. There are at most `limit` connections here. To make room, the source with the most connections
//    loses one, so a stranger cannot displace the peers on other hosts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "base/clock.h"
#include "control/event_loop.h"
#include "control/link.h"
#include "control/registry.h"

namespace fastgpu {

class PendingConnections {
 public:
  struct Events {
    std::function<Registry::State(const MemberKey& key)> state_of;
    // Gets a connection and its first message: kHello, or kStream for an attached communicator.
    std::function<void(Link link, ControlMessage first)> taken;
    // A connection was lost because this process ran out of a resource.
    std::function<void(const Failure& why)> run_out;
  };
  struct Limits {
    std::size_t connections = 64;  // grows with the world: see expect()
    TimeNs silent = 10 * kSecond;  // until the first message
    TimeNs spared = kSecond;       // the same, for drop_silent()
  };

  PendingConnections(EventLoop& loop, Events events);
  PendingConnections(EventLoop& loop, Events events, const Limits& limits);

  // Raises the limit for a communicator whose peers open at most `connections` connections: to
  // twice as many, but at most half the descriptors that this process may open.
  void expect(std::size_t connections);
  void add(Link link);
  // Hands over the parked connections of a communicator that is attached now, or closes them if it
  // is no longer expected.
  void resume(const MemberKey& key);
  // Closes the connection that has been silent longest, if that is at least `limits.spared`.
  bool drop_silent(const Failure& why);
  std::size_t size() const noexcept { return connections_.size(); }
  std::size_t limit() const noexcept { return limits_.connections; }

 private:
  struct Connection {
    Link link;
    std::string source;  // the process or the host at the other end
    TimeNs since = 0;
    std::optional<ControlMessage> first;  // parked
    EventLoop::Watch watch;               // after link: destroyed before it
  };

  void guard(uint64_t id, const std::function<void()>& body);
  void read_first(uint64_t id);
  void sort(uint64_t id, ControlMessage first);
  void answer_probe(Link link);
  void take(uint64_t id, ControlMessage first);
  void make_room();
  void close(uint64_t id, const Failure& why);
  void close_late();
  void schedule_close_late();

  EventLoop& loop_;
  const Events events_;
  Limits limits_;
  uint64_t next_id_ = 1;
  bool has_dropped_ = false;                    // to make room, and logged it
  bool is_scheduled_ = false;                   // close_late()
  std::map<uint64_t, Connection> connections_;  // in the order of their arrival
};

}  // namespace fastgpu
