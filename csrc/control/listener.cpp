#include "control/listener.h"

#include <unistd.h>

#include <array>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/random.h"

namespace fastgpu {
namespace {

constexpr int kAcceptsATime = 64;  // so that many connects do not hold up the open links
constexpr TimeNs kAcceptRetryInterval = 100 * kMillisecond;

std::string random_name() {
  std::array<char, 48> text{};
  const int size =
      std::snprintf(text.data(), text.size(), "fastgpu-%d-%016" PRIx64, ::getpid(), random_u64());
  return {text.data(), static_cast<std::size_t>(size)};
}

}  // namespace

Listener::Listener(EventLoop& loop, Accepted accepted, MakeRoom make_room)
    : loop_(loop),
      accepted_(std::move(accepted)),
      make_room_(std::move(make_room)),
      unix_name_(random_name()),
      unix_listener_(listen_unix(unix_name_)),
      unix_watch_(
          loop_.watch(unix_listener_.get(), [this] { accept_from(unix_listener_, true); })) {}

uint16_t Listener::listen(const std::string& address, const PortRange& range) {
  const std::lock_guard lock(mutex_);
  const auto found = tcp_.find(address);
  if (found == tcp_.end()) {
    uint16_t port = 0;
    UniqueFd socket = listen_tcp(address, range, &port);
    TcpListener& listener = tcp_[address];
    listener.socket = std::move(socket);
    listener.port = port;
    loop_.post([this, &listener] {
      listener.watch = loop_.watch(listener.socket.get(),
                                   [this, &listener] { accept_from(listener.socket, false); });
    });
    return port;
  }
  const uint16_t port = found->second.port;
  if (range.first != 0 && (port < range.first || port > range.last)) {
    raise(ErrorKind::kRendezvous,
          "this process listens on " + to_string(Endpoint{address, port}) +
              " for its earlier process groups, and the port range of this group, " +
              to_string(range) + ", excludes that port; use one range for all groups of a process");
  }
  return port;
}

void Listener::accept_from(const UniqueFd& listener, bool is_unix) {
  for (int i = 0; i < kAcceptsATime; ++i) {
    UniqueFd socket;
    try {
      socket = accept_connection(listener.get());
      is_failing_ = false;
    } catch (const CommError& error) {  // no descriptor is left
      if (make_room_()) continue;
      if (!is_failing_) log(LogLevel::kError, "accept_failed", "reason=" + quoted(error.what()));
      is_failing_ = true;
      return loop_.call_after(kAcceptRetryInterval,
                              [this, &listener, is_unix] { accept_from(listener, is_unix); });
    }
    if (!socket) return;
    accepted_(is_unix ? Link(std::move(socket)) : Link(make_tcp_stream(std::move(socket))));
  }
  loop_.post([this, &listener, is_unix] { accept_from(listener, is_unix); });
}

}  // namespace fastgpu
