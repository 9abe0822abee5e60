// The listening sockets of this process: a unix socket, and a TCP socket for each address that
// listen() was called with. All of them serve all communicators.
//
// Ownership: owns the listening sockets; hands each accepted connection to the callback.
// Threading: the event loop's thread; listen() from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>

#include "base/unique_fd.h"
#include "control/event_loop.h"
#include "control/link.h"
#include "transport/socket/socket.h"

namespace fastgpu {

class Listener {
 public:
  using Accepted = std::function<void(Link link)>;
  // Closes a connection that can be spared, because the process has no descriptor left. Returns
  // false if there is none.
  using MakeRoom = std::function<bool()>;

  Listener(EventLoop& loop, Accepted accepted, MakeRoom make_room);

  const std::string& unix_name() const noexcept { return unix_name_; }
  // The TCP port of an address of this host, opened at the first call for that address. Raises
  // RendezvousError if no port of the range is free there, or if one was opened before that lies
  // outside the range.
  uint16_t listen(const std::string& address, const PortRange& range);

 private:
  void accept_from(const UniqueFd& listener, bool is_unix);

  EventLoop& loop_;
  const Accepted accepted_;
  const MakeRoom make_room_;
  const std::string unix_name_;
  const UniqueFd unix_listener_;
  bool is_failing_ = false;  // accepting has failed, and this was logged

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
