#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <thread>

#include "base/error.h"
#include "check.h"
#include "transport/wait/poller.h"

namespace fastgpu::test {
namespace {

std::array<UniqueFd, 2> socket_pair() {
  std::array<int, 2> fds{};
  CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds.data()), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// How long a sleep of at most `limit` lasted.
TimeNs sleep_for(Poller& poller, TimeNs limit) {
  const TimeNs start = now_ns();
  poller.prepare_sleep();
  poller.sleep(start + limit);
  return now_ns() - start;
}

TEST(sleeps_until_the_deadline) {
  Poller poller;
  CHECK(sleep_for(poller, 20 * kMillisecond) >= 20 * kMillisecond);
  CHECK(sleep_for(poller, -kSecond) < 10 * kSecond);  // passed already
}

TEST(a_ring_before_the_sleep_is_kept) {
  Poller poller;
  poller.prepare_sleep();
  poller.wake();
  poller.wake();
  poller.sleep(kNever);
  CHECK(sleep_for(poller, 20 * kMillisecond) >= 20 * kMillisecond);  // and used up
}

TEST(a_ring_of_one_who_is_awake_costs_nothing) {
  Poller poller;
  poller.wake();
  pollfd event{.fd = poller.doorbell().event_fd(), .events = POLLIN, .revents = 0};
  CHECK_EQ(::poll(&event, 1, 0), 0);
  poller.prepare_sleep();
  poller.cancel_sleep();
  poller.wake();
  CHECK_EQ(::poll(&event, 1, 0), 0);
}

TEST(another_thread_wakes) {
  Poller poller;
  poller.prepare_sleep();
  std::thread ringer([&] { poller.wake(); });
  poller.sleep(kNever);
  ringer.join();
}

TEST(news_of_a_socket_wakes_once) {
  Poller poller;
  const auto sockets = socket_pair();
  poller.add(sockets[0].get());
  sleep_for(poller, 0);  // it is writable: told at once
  CHECK(sleep_for(poller, 20 * kMillisecond) >= 20 * kMillisecond);
  CHECK_EQ(::write(sockets[1].get(), "x", 1), 1);
  CHECK(sleep_for(poller, 100 * kSecond) < 50 * kSecond);
  CHECK(sleep_for(poller, 20 * kMillisecond) >= 20 * kMillisecond);
  poller.remove(sockets[0].get());
  CHECK_EQ(::write(sockets[1].get(), "x", 1), 1);
  CHECK(sleep_for(poller, 20 * kMillisecond) >= 20 * kMillisecond);
}

TEST(what_cannot_be_watched_is_an_error) {
  Poller poller;
  CHECK_THROWS(poller.add(-1), CommError, "watch");
  poller.remove(-1);
}

TEST(a_full_descriptor_does_not_stop_who_rings) {
  Doorbell owner = Doorbell::create();
  owner.prepare_sleep();
  UniqueFd blocking(::eventfd(0, EFD_CLOEXEC));
  CHECK_EQ(::eventfd_write(blocking.get(), UINT64_MAX - 1), 0);  // the next write would block
  Doorbell ringer = Doorbell::attach(UniqueFd(::dup(owner.page_fd())), std::move(blocking));
  ringer.ring();
  CHECK((::fcntl(ringer.event_fd(), F_GETFL) & O_NONBLOCK) != 0);
}

TEST(what_is_not_a_doorbell_is_refused) {
  const Doorbell bell = Doorbell::create();
  CHECK_THROWS(Doorbell::attach(UniqueFd(::dup(bell.event_fd())), UniqueFd(::dup(bell.event_fd()))),
               RendezvousError, "is not one");
}

}  // namespace
}  // namespace fastgpu::test
