#include "control/listener.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
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

// Accepting fails for lack of a descriptor even if no connection waits.
bool has_waiting(const UniqueFd& listener) noexcept {
  pollfd waiting{.fd = listener.get(), .events = POLLIN, .revents = 0};
  return ::poll(&waiting, 1, 0) == 1;
}

UniqueFd any_descriptor() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

}  // namespace

Listener::Listener(EventLoop& loop, Events events, uid_t user, TimeNs shortage_limit)
    : loop_(loop),
      events_(std::move(events)),
      user_(user),
      shortage_limit_(shortage_limit),
      unix_name_(random_name()),
      unix_listener_(listen_unix(unix_name_)),
      spare_(any_descriptor()),
      unix_watch_(
          loop_.watch(unix_listener_.get(), [this] { accept_from(unix_listener_, true); })) {
  if (!spare_) raise_system(ErrorKind::kRendezvous, "cannot open a spare descriptor", errno);
}

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
    } catch (const CommError& error) {
      if (!has_waiting(listener)) return;
      if (events_.make_room(error.failure())) continue;
      return on_shortage(listener, is_unix, error.failure());
    }
    short_since_ = 0;
    if (!socket) return;
    hand_over(std::move(socket), is_unix);
  }
  loop_.post([this, &listener, is_unix] { accept_from(listener, is_unix); });
}

void Listener::hand_over(UniqueFd socket, bool is_unix) {
  try {
    if (is_unix) check_user(socket.get(), user_);
  } catch (const AuthenticationError&) {  // logged by check_user
    return;
  }
  events_.accepted(Link(std::move(socket), is_unix));
}

void Listener::on_shortage(const UniqueFd& listener, bool is_unix, const Failure& why) {
  if (short_since_ == 0) {
    short_since_ = now_ns();
    log(LogLevel::kError, "accept_failed", "reason=" + in_quotes(why.message));
  }
  if (now_ns() - short_since_ >= shortage_limit_) {
    events_.run_out(why);
    refuse_all(listener, is_unix, why);
  }
  if (!retries_.insert(listener.get()).second) return;
  loop_.call_after(kAcceptRetryInterval, [this, &listener, is_unix] {
    retries_.erase(listener.get());
    accept_from(listener, is_unix);
  });
}

void Listener::refuse_all(const UniqueFd& listener, bool is_unix, const Failure& why) {
  spare_.reset();
  try {
    while (UniqueFd socket = accept_connection(listener.get())) {
      refuse(Link(std::move(socket), is_unix), why);
    }
  } catch (const CommError& error) {  // another thread took the spare descriptor
    log(LogLevel::kError, "refuse_failed", "reason=" + in_quotes(error.what()));
  }
  spare_ = any_descriptor();
}

}  // namespace fastgpu
