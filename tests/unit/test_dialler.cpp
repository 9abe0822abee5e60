#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "control/dialler.h"

namespace fastgpu {
namespace {

struct Result {
  int calls = 0;
  UniqueFd socket;
  Failure why;
};

Dialler::Callback into(Result& result) {
  return [&result](UniqueFd socket, const Failure& why) {
    ++result.calls;
    result.socket = std::move(socket);
    result.why = why;
  };
}

void run_until_done(EventLoop& loop, const Result& result) {
  const TimeNs limit = now_ns() + 20 * kSecond;
  while (result.calls == 0 && now_ns() < limit) loop.run_once(limit);
  CHECK_EQ(result.calls, 1);
}

std::string fresh_name() {
  static int count = 0;
  return "fastgpu-dialler-test-" + std::to_string(::getpid()) + "-" + std::to_string(count++);
}

PeerAddress unix_address(const std::string& name) {
  return {.shared_memory = true, .unix_name = name, .endpoints = {}};
}

PeerAddress tcp_address(std::vector<Endpoint> endpoints) {
  return {.shared_memory = false, .unix_name = "", .endpoints = std::move(endpoints)};
}

// A port that nobody listens on: a socket is bound to it, so no other process can listen there.
struct SilentPort {
  explicit SilentPort(const char* address) : endpoint{address, 0} {
    sockaddr_in any{};
    any.sin_family = AF_INET;
    CHECK_EQ(::inet_pton(AF_INET, address, &any.sin_addr), 1);
    CHECK_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&any), sizeof(any)), 0);
    socklen_t size = sizeof(any);
    CHECK_EQ(::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&any), &size), 0);
    endpoint.port = ntohs(any.sin_port);
  }
  UniqueFd socket{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  Endpoint endpoint;
};

// A unix socket of this name whose backlog is full, as when its process is stopped.
struct FullListener {
  explicit FullListener(const std::string& name) : listener(listen_unix(name)) {
    CHECK_EQ(::listen(listener.get(), 0), 0);
    for (;;) {
      UniqueFd socket = dial_unix(name);
      if (!socket) break;
      waiting.push_back(std::move(socket));
    }
  }
  UniqueFd listener;
  std::vector<UniqueFd> waiting;
};

TEST(a_unix_socket_is_connected_at_once) {
  EventLoop loop;
  Dialler dialler(loop);
  const std::string name = fresh_name();
  const UniqueFd listener = listen_unix(name);
  Result result;
  dialler.dial(unix_address(name), into(result));
  CHECK_EQ(result.calls, 1);
  CHECK(static_cast<bool>(result.socket));
  CHECK(static_cast<bool>(accept_connection(listener.get())));
}

TEST(a_full_backlog_is_tried_again_and_nobody_waits) {
  EventLoop loop;
  Dialler dialler(loop);
  const std::string name = fresh_name();
  const FullListener full(name);
  Result result;
  dialler.dial(unix_address(name), into(result));
  CHECK_EQ(result.calls, 0);
  bool other_ran = false;  // while the dial goes on
  loop.post([&] { other_ran = true; });
  loop.run_once(kNever);
  CHECK(other_ran);
  CHECK_EQ(result.calls, 0);
  while (accept_connection(full.listener.get())) {
  }
  run_until_done(loop, result);
  CHECK(static_cast<bool>(result.socket));
}

TEST(a_backlog_that_stays_full_ends_the_dial) {
  EventLoop loop;
  Dialler dialler(loop, /*retry_limit=*/5 * kMillisecond);
  const std::string name = fresh_name();
  const FullListener full(name);
  Result result;
  dialler.dial(unix_address(name), into(result));
  run_until_done(loop, result);
  CHECK(!result.socket);
  CHECK(result.why.message.find("@" + name) != std::string::npos);
  CHECK(result.why.message.find("too many connections wait") != std::string::npos);
}

TEST(a_unix_socket_of_no_process_is_refused_at_once) {
  EventLoop loop;
  Dialler dialler(loop);
  const std::string name = fresh_name();
  Result result;
  dialler.dial(unix_address(name), into(result));
  CHECK_EQ(result.calls, 1);
  CHECK(!result.socket);
  CHECK(result.why.message.find("@" + name) != std::string::npos);
  CHECK(result.why.message.find("check that its process still runs") != std::string::npos);
}

TEST(the_next_endpoint_follows_one_that_fails) {
  EventLoop loop;
  Dialler dialler(loop);
  uint16_t port = 0;
  const UniqueFd listener = listen_tcp("127.0.0.1", {}, &port);
  Result result;
  const SilentPort silent("127.0.0.1");
  dialler.dial(tcp_address({{"not an address", 1}, silent.endpoint, {"127.0.0.1", port}}),
               into(result));
  run_until_done(loop, result);
  CHECK(static_cast<bool>(result.socket));
  CHECK_EQ(dial_result(result.socket.get()), 0);
}

TEST(the_last_endpoint_that_fails_names_them_all) {
  EventLoop loop;
  Dialler dialler(loop);
  const SilentPort first("127.0.0.1");
  const SilentPort second("127.0.0.2");
  Result result;
  dialler.dial(tcp_address({first.endpoint, second.endpoint}), into(result));
  run_until_done(loop, result);
  CHECK(!result.socket);
  for (const SilentPort* one : {&first, &second}) {
    CHECK(result.why.message.find(to_string(one->endpoint) + " (Connection refused)") !=
          std::string::npos);
  }
  CHECK(result.why.message.find("FASTGPU_INTERFACE") != std::string::npos);
}

TEST(a_peer_without_endpoints_cannot_be_reached) {
  EventLoop loop;
  Dialler dialler(loop);
  Result result;
  dialler.dial(tcp_address({}), into(result));
  CHECK_EQ(result.calls, 1);
  CHECK(result.why.message.find("published no address") != std::string::npos);
}

TEST(a_destroyed_dialler_calls_nobody) {
  EventLoop loop;
  Result result;
  std::optional<Dialler> dialler(std::in_place, loop);
  const SilentPort silent("127.0.0.1");
  dialler->dial(tcp_address({silent.endpoint}), into(result));
  dialler.reset();
  loop.run_once(now_ns());
  CHECK_EQ(result.calls, 0);
}

}  // namespace
}  // namespace fastgpu
