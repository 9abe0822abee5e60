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

uint16_t Listener::listen(const PortRange& range) {
  const std::lock_guard lock(mutex_);
  if (!tcp_listener_) {
    tcp_listener_ = listen_tcp(range, &tcp_port_);
    loop_.post([this] {
      tcp_watch_ = loop_.watch(tcp_listener_.get(), [this] { accept_from(tcp_listener_, false); });
    });
  } else if (range.first != 0 && (tcp_port_ < range.first || tcp_port_ > range.last)) {
    raise(ErrorKind::kRendezvous,
          "this process has listened on port " + std::to_string(tcp_port_) +
              " since its first process group, and FASTGPU_PORT_RANGE now excludes that port; "
              "use one range for all groups of a process");
  }
  return tcp_port_;
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
