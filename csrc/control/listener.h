// The listening sockets of this process: a unix socket, and a TCP socket for each address that
// listen() was called with. All of them serve all communicators. Only processes of the same user
// may use the unix socket.
//
// When this process has no descriptor left, connections wait, and accepting is tried again and
// again. If that does not help within `shortage_limit`, the peers that wait are told why and their
// connections are closed, for which the listener keeps a spare descriptor.
//
// Ownership: owns the listening sockets; hands each accepted connection to the callback.
// Threading: the event loop's thread; listen() from any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "control/event_loop.h"
#include "control/link.h"
#include "transport/socket/socket.h"

namespace fastgpu {

class Listener {
 public:
  struct Events {
    std::function<void(Link link)> accepted;
    // Closes a connection that can be spared. Returns false if there is none.
    std::function<bool(const Failure& why)> make_room;
    // Connections have waited for `shortage_limit`.
    std::function<void(const Failure& why)> run_out;
  };
  static constexpr TimeNs kShortageLimit = 3 * kSecond;

  // `user` is the user whose processes may connect.
  Listener(EventLoop& loop, Events events, uid_t user, TimeNs shortage_limit = kShortageLimit);

  const std::string& unix_name() const noexcept { return unix_name_; }
  // The TCP port of an address of this host, opened at the first call for that address. Raises
  // RendezvousError if no port of the range is free there, or if one was opened before that lies
  // outside the range.
  uint16_t listen(const std::string& address, const PortRange& range);

 private:
  void accept_from(const UniqueFd& listener, bool is_unix);
  void hand_over(UniqueFd socket, bool is_unix);
  void on_shortage(const UniqueFd& listener, bool is_unix, const Failure& why);
  void refuse_all(const UniqueFd& listener, bool is_unix, const Failure& why);

  EventLoop& loop_;
  const Events events_;
  const uid_t user_;
  const TimeNs shortage_limit_;
  const std::string unix_name_;
  const UniqueFd unix_listener_;
  UniqueFd spare_;
  TimeNs short_since_ = 0;  // 0: accepting works
  std::set<int> retries_;   // the listeners that a retry is due for

  struct TcpListener {
    UniqueFd socket;
    uint16_t port = 0;
    EventLoop::Watch watch;  // used by the loop only; after socket: destroyed before it
  };
  std::mutex mutex_;                        // guards the map; its elements stay
  std::map<std::string, TcpListener> tcp_;  // by address

  EventLoop::Watch unix_watch_;
};

}  // namespace fastgpu
