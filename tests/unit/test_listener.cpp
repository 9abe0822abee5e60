// The sockets that a process listens on, and what becomes of connections to them.
#include <poll.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "control/listener.h"
#include "control_parts.h"
#include "patience.h"
#include "shortages.h"

namespace fastgpu {
namespace {

using test::is_closed;
using test::is_refused;

// Accepts whatever waits, then returns.
struct Listening {
  explicit Listening(uid_t only_user = ::geteuid(), TimeNs limit = Listener::kShortageLimit)
      : user(only_user), shortage_limit(limit) {}

  const uid_t user;
  const TimeNs shortage_limit;
  EventLoop loop;
  std::vector<Link> accepted;
  std::vector<Failure> shortages;
  Listener listener{loop,
                    {.accepted = [this](Link link) { accepted.push_back(std::move(link)); },
                     .make_room = [](const Failure&) { return false; },
                     .run_out = [this](const Failure& why) { shortages.push_back(why); }},
                    user,
                    shortage_limit};

  void accept(std::size_t count) {
    const TimeNs limit = now_ns() + 20 * kSecond;
    while (accepted.size() < count && now_ns() < limit) loop.run_once(limit);
    CHECK_EQ(accepted.size(), count);
  }
};

TEST(both_sockets_are_accepted_from) {
  Listening listening;
  const UniqueFd local = dial_unix(listening.listener.unix_name());
  const UniqueFd remote = dial_tcp({"127.0.0.1", listening.listener.listen("127.0.0.1", {})});
  listening.accept(2);
  CHECK(listening.accepted[0].is_unix() != listening.accepted[1].is_unix());
}

// The other end has this process's own user, so the listener is told to expect another.
TEST(another_user_may_not_connect_to_the_unix_socket) {
  Listening listening(::geteuid() + 1);
  const UniqueFd stranger = dial_unix(listening.listener.unix_name());
  const UniqueFd remote = dial_tcp({"127.0.0.1", listening.listener.listen("127.0.0.1", {})});
  listening.accept(1);
  CHECK(!listening.accepted[0].is_unix());
  Link link(UniqueFd(::dup(stranger.get())));
  CHECK(is_closed(link));
  CHECK_THROWS(check_user(stranger.get(), ::geteuid() + 1), AuthenticationError,
               "a process of user " + std::to_string(::geteuid()) +
                   " is at the other end of a unix socket, and only user " +
                   std::to_string(::geteuid() + 1) + " may be");
}

TEST(a_listener_of_another_user_is_not_connected_to) {
  const Listening listening;
  CHECK_THROWS(dial_unix(listening.listener.unix_name(), ::geteuid() + 1), AuthenticationError,
               "run all ranks as one user");
}

TEST(accepting_goes_on_when_there_are_descriptors_again) {
  Listening listening;
  const UniqueFd waiting = dial_unix(listening.listener.unix_name());
  {
    const test::NoDescriptors none;
    listening.loop.run_once(now_ns());
    CHECK(listening.accepted.empty());
  }
  listening.accept(1);  // without another event of the listener
  CHECK(listening.shortages.empty());
}

// The kernel wants a descriptor before it looks whether a connection waits.
TEST(a_process_that_uses_its_last_descriptor_is_not_short) {
  Listening listening(::geteuid(), /*limit=*/0);
  test::NoDescriptors none;
  none.give_back_one();
  none.give_back_one();
  const UniqueFd dialled = dial_unix(listening.listener.unix_name());
  listening.accept(1);
  listening.loop.run_once(now_ns());
  CHECK(listening.shortages.empty());
}

TEST(peers_that_wait_too_long_for_descriptors_are_told_why) {
  Listening listening(::geteuid(), /*limit=*/0);
  Link local(dial_unix(listening.listener.unix_name()));
  Link remote(make_tcp_stream(dial_tcp({"127.0.0.1", listening.listener.listen("127.0.0.1", {})})));
  CHECK(test::is_ready(remote.fd(), POLLOUT));
  {
    const test::NoDescriptors none;
    const TimeNs limit = now_ns() + 20 * kSecond;
    while (listening.shortages.size() < 2 && now_ns() < limit) listening.loop.run_once(limit);
  }
  CHECK(listening.accepted.empty());
  for (Link* link : {&local, &remote}) CHECK(is_refused(*link, "ran out of file descriptors"));
  CHECK(listening.shortages.front().kind == ErrorKind::kOutOfResources);
  const UniqueFd next = dial_unix(listening.listener.unix_name());
  listening.accept(1);
}

TEST(more_connections_than_one_turn_takes_are_all_accepted) {
  Listening listening;
  std::vector<UniqueFd> dialled;
  for (int i = 0; i < 150; ++i) dialled.push_back(dial_unix(listening.listener.unix_name()));
  listening.accept(150);
}

TEST(the_port_stays_for_all_groups) {
  Listening listening;
  const uint16_t port = listening.listener.listen("127.0.0.1", {});
  CHECK_EQ(listening.listener.listen("127.0.0.1", {}), port);
  CHECK_EQ(listening.listener.listen("127.0.0.1", {port, port}), port);
  const uint16_t other = port == 1024 ? 1025 : static_cast<uint16_t>(port - 1);
  CHECK_THROWS(listening.listener.listen("127.0.0.1", {other, other}), RendezvousError,
               "listens on 127.0.0.1:" + std::to_string(port));
}

}  // namespace
}  // namespace fastgpu
