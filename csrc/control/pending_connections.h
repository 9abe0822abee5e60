// Accepted connections, from accept until a communicator takes them. The first message of a
// connection says what it is for: a probe is answered at once; a hello or a stream is handed to its
// communicator, or waits ("is parked") while that communicator does not exist here yet.
//
// Anybody who can reach the port may connect, so the number of connections and the time that each
// may take are limited.
// Ownership: owns the links of these connections. Threading: the event loop's thread.
// Invariants:
// 1. Of a parked connection only the first message was read.
// 2. There are at most `limit` connections here. To make room for a new one, one is closed of the
//    source with the most, so that a stranger cannot displace the peers on other hosts.
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
    // Whether a communicator exists here.
    std::function<bool(const MemberKey& key)> is_known;
    // A connection of a communicator, with its first message: kHello, or kStream over TCP.
    std::function<void(Link link, ControlMessage first)> taken;
    // This process is short of a resource, and a connection was lost by that.
    std::function<void(const Failure& why)> run_out;
  };
  struct Limits {
    std::size_t connections = 64;   // grows with the world: see expect()
    TimeNs silent = 10 * kSecond;   // until the first message
    TimeNs spared = kSecond;        // the same, if descriptors are short
    TimeNs parked = 300 * kSecond;  // until the communicator exists
  };

  PendingConnections(EventLoop& loop, Events events);
  PendingConnections(EventLoop& loop, Events events, const Limits& limits);

  // A communicator will be made whose peers open up to `connections` connections. Twice as many may
  // then wait here, but at most half the descriptors that this process may open.
  void expect(std::size_t connections);
  void add(Link link);
  // Hands over the parked connections of a communicator that exists now.
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
  bool has_dropped_ = false;                    // and this was logged
  bool is_scheduled_ = false;                   // close_late()
  std::map<uint64_t, Connection> connections_;  // in the order of their arrival
};

}  // namespace fastgpu
