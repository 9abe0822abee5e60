#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "control/event_loop.h"

namespace fastgpu {
namespace {

std::array<UniqueFd, 2> socket_pair() {
  std::array<int, 2> both{};
  CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both.data()), 0);
  return {UniqueFd(both[0]), UniqueFd(both[1])};
}

TEST(a_handler_is_called_at_first_and_for_every_change) {
  EventLoop loop;
  const auto sockets = socket_pair();
  int calls = 0;
  const EventLoop::Watch watch = loop.watch(sockets[0].get(), [&] { ++calls; });
  loop.run_once(kNever);  // it is writable
  CHECK_EQ(calls, 1);
  loop.run_once(now_ns());
  CHECK_EQ(calls, 1);
  CHECK_EQ(::write(sockets[1].get(), "x", 1), 1);
  loop.run_once(kNever);
  CHECK_EQ(calls, 2);
}

TEST(no_handler_is_called_after_its_watch) {
  EventLoop loop;
  const auto first = socket_pair();
  const auto second = socket_pair();
  int calls = 0;
  EventLoop::Watch first_watch;
  EventLoop::Watch second_watch;
  // Both are ready in the same round; whichever comes first ends both.
  const auto end_both = [&] {
    ++calls;
    first_watch.reset();
    second_watch.reset();
  };
  first_watch = loop.watch(first[0].get(), end_both);
  second_watch = loop.watch(second[0].get(), end_both);
  loop.run_once(kNever);
  loop.run_once(now_ns());
  CHECK_EQ(calls, 1);
}

TEST(a_moved_watch_still_watches) {
  EventLoop loop;
  const auto sockets = socket_pair();
  int calls = 0;
  EventLoop::Watch first = loop.watch(sockets[0].get(), [&] { ++calls; });
  EventLoop::Watch second(std::move(first));
  first = std::move(second);
  loop.run_once(kNever);
  CHECK_EQ(calls, 1);
}

TEST(timers_run_in_the_order_of_their_time) {
  EventLoop loop;
  std::vector<int> order;
  loop.call_after(2 * kMillisecond, [&] { order.push_back(2); });
  loop.call_after(0, [&] {
    order.push_back(1);
    loop.call_after(10 * kSecond, [&] { order.push_back(3); });
  });
  const TimeNs begin = now_ns();
  while (order.size() < 2) loop.run_once(kNever);
  CHECK(now_ns() >= begin + 2 * kMillisecond);
  CHECK(order == (std::vector<int>{1, 2}));
}

TEST(a_command_may_post_another) {
  EventLoop loop;
  int calls = 0;
  loop.post([&] {
    ++calls;
    loop.post([&] { ++calls; });
  });
  loop.run_once(kNever);
  CHECK_EQ(calls, 1);
  loop.run_once(kNever);
  CHECK_EQ(calls, 2);
}

TEST(an_exception_does_not_end_the_loop) {
  EventLoop loop;
  bool called = false;
  loop.post([] { throw std::runtime_error("for the test"); });
  loop.post([&] { called = true; });
  loop.run_once(kNever);
  CHECK(called);
}

TEST(another_thread_posts_and_stops) {
  EventLoop loop;
  bool called = false;
  std::thread other([&] {
    loop.post([&] { called = true; });
    loop.post([&] { loop.stop(); });
  });
  loop.run();
  other.join();
  CHECK(called);
}

}  // namespace
}  // namespace fastgpu
