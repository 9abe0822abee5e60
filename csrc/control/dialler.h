// Connects to peers without waiting: a unix socket whose backlog is full is tried again on a timer,
// and a TCP connect that fails is followed by the next endpoint of the peer.
//
// Ownership: a dial under way belongs to the dialler, a connected socket to the callback.
// Threading: the event loop's thread.
// Invariant: every dial() calls its callback once, unless the dialler is destroyed first.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "control/event_loop.h"
#include "transport/socket/socket.h"

namespace fastgpu {

// Identifies the control link with a process.
struct LinkKey {
  std::string process;   // the name of its unix socket
  bool is_unix = false;  // else TCP

  auto operator<=>(const LinkKey&) const = default;
};

// How to reach a rank: by shared memory through the unix socket of its process, else over TCP.
struct PeerAddress {
  bool shared_memory = false;
  std::string unix_name;
  std::vector<Endpoint> endpoints;  // best first

  LinkKey link() const { return {unix_name, shared_memory}; }
};

class Dialler {
 public:
  // Gets the connected socket; or an empty one, and why: PeerLostError "it cannot be reached ...",
  // or OutOfResourcesError if this process is short of a resource.
  using Callback = std::function<void(UniqueFd socket, const Failure& why)>;

  // How long a unix socket whose backlog is full is tried again.
  static constexpr TimeNs kRetryLimit = 2 * kSecond;

  explicit Dialler(EventLoop& loop, TimeNs retry_limit = kRetryLimit)
      : loop_(loop), retry_limit_(retry_limit) {}

  // The callback may be called before this returns.
  void dial(const PeerAddress& address, Callback callback);

 private:
  struct Dial {
    PeerAddress address;
    Callback callback;
    TimeNs deadline = 0;       // unix
    std::size_t endpoint = 0;  // TCP: the one being tried
    std::string failures;      // TCP: of the endpoints before it
    UniqueFd socket;
    EventLoop::Watch watch;  // after socket: destroyed before it
  };

  void try_unix(uint64_t id);
  void try_endpoints(uint64_t id);
  void check_connect(uint64_t id);
  static void add_failure(Dial& dial, const std::string& what);
  void connected(uint64_t id, UniqueFd socket);
  void unreachable(uint64_t id, const std::string& why);
  void finish(uint64_t id, UniqueFd socket, const Failure& why);

  EventLoop& loop_;
  const TimeNs retry_limit_;
  uint64_t next_id_ = 1;
  std::map<uint64_t, Dial> dials_;
};

}  // namespace fastgpu
