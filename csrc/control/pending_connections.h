// Accepted connections, from accept until their first message says what they are for: a probe is
// answered, a hello is handed over, and a stream, too, once its communicator exists here. While
// that is only expected, the stream waits ("is parked").
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
    std::function<Registry::State(const MemberKey& key)> state_of;
    // With its first message: kHello, or kStream over TCP of an attached communicator.
    std::function<void(Link link, ControlMessage first)> taken;
    // This process is short of a resource, and a connection was lost by that.
    std::function<void(const Failure& why)> run_out;
  };
  struct Limits {
    std::size_t connections = 64;  // grows with the world: see expect()
    TimeNs silent = 10 * kSecond;  // until the first message
    TimeNs spared = kSecond;       // the same, if descriptors are short
  };

  PendingConnections(EventLoop& loop, Events events);
  PendingConnections(EventLoop& loop, Events events, const Limits& limits);

  // A communicator will be made whose peers open up to `connections` connections. Twice as many may
  // then wait here, but at most half the descriptors that this process may open.
  void expect(std::size_t connections);
  void add(Link link);
  // Hands over the parked connections of a communicator that exists now, or closes them if it is
  // no longer expected.
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
  bool has_dropped_ = false;                    // and this was logged
  bool is_scheduled_ = false;                   // close_late()
  std::map<uint64_t, Connection> connections_;  // in the order of their arrival
};

}  // namespace fastgpu
