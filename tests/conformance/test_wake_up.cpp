// No wake-up is lost. Pairs of ends, more of them than there are cores, pass frames back and forth
// and sleep whenever nothing moves, as threads and as processes. A lost wake-up shows as a sleep
// until the deadline.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "patience.h"
#include "transport/shm/shm.h"
#include "transport/wait/poller.h"

namespace fastgpu::test {
namespace {

constexpr uint32_t kTurns = 400;
// So few slots and such small buffers that the sender often waits for room.
constexpr ShmRingConfig kNarrow = {.slots = 2, .buffer_bytes = 4096};

// One end of a pair: a poller to sleep in, and a ring to send by.
struct End {
  Poller poller;
  UniqueFd ring = create_shm_ring(kNarrow);
  SymmetricHeap heap;
};

// Sleeps until `look` returns true. False: a wake-up did not come.
template <typename Look>
bool sleep_until(Poller& poller, const Look& look) {
  const TimeNs deadline = now_ns() + kPatience;
  while (!look()) {
    poller.prepare_sleep();
    if (look()) {
      poller.cancel_sleep();
      return true;
    }
    poller.sleep(deadline);
    if (now_ns() >= deadline) return false;
  }
  return true;
}

std::shared_ptr<Doorbell> bell_of(const End& end) {
  const Doorbell& bell = const_cast<End&>(end).poller.doorbell();
  return std::make_shared<Doorbell>(
      Doorbell::attach(UniqueFd(::dup(bell.page_fd())), UniqueFd(::dup(bell.event_fd()))));
}

// Passes frames of many sizes back and forth, some of them in symmetric memory.
bool ping_pong(End& me, const End& peer, bool first) {
  auto segments = std::make_shared<PeerSegments>();
  segments->add(0, peer.heap.descriptor(0));
  const auto end = make_shm_end();
  const auto sender = make_shm_sender(UniqueFd(::dup(me.ring.get())), bell_of(peer), end, &me.heap,
                                      [](uint32_t) {});
  const auto receiver =
      make_shm_receiver(UniqueFd(::dup(peer.ring.get())), bell_of(peer), end, segments);
  constexpr std::size_t kMost = 64 * 1024;
  std::byte* symmetric = me.heap.allocate(kMost);
  std::vector<std::byte> copied(kMost);
  std::vector<std::byte> target(kMost);
  bool mine = first;
  for (uint32_t turn = 0; turn < kTurns; ++turn, mine = !mine) {
    const uint64_t size_bytes = turn % 3 == 0 ? 8 : (uint64_t{977} * turn) % kMost;
    std::byte* payload = turn % 5 == 0 ? symmetric : copied.data();
    if (mine) {
      std::fill_n(payload, size_bytes, std::byte(turn));
      Outgoing frame{.header = {.ordinal = turn, .size_bytes = size_bytes}, .payload = payload};
      if (!sleep_until(me.poller, [&] { return sender->try_send(frame), frame.done; }))
        return false;
      continue;
    }
    FrameHeader header;
    Incoming incoming{.target = target.data(), .size_bytes = size_bytes};
    const bool came = sleep_until(me.poller, [&] {
      if (receiver->peek(header) == Io::kMoved) receiver->try_recv(incoming);
      return incoming.done;
    });
    if (!came || header.ordinal != turn || header.size_bytes != size_bytes) return false;
    for (uint64_t i = 0; i < size_bytes; ++i)
      if (target[i] != std::byte(turn)) return false;
  }
  return true;
}

using Pair = std::array<End, 2>;

std::unique_ptr<Pair> make_pair() {
  auto pair = std::make_unique<Pair>();
  for (End& end : *pair) end.heap.allocate(64);  // so that the first segment exists
  return pair;
}

std::size_t more_than_cores() {
  return std::max<std::size_t>(std::thread::hardware_concurrency(), 2);  // pairs
}

TEST(threads_wake_each_other) {
  const std::size_t pairs = more_than_cores();
  std::vector<std::unique_ptr<Pair>> ends;
  std::vector<char> passed(pairs * 2);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < pairs; ++i) ends.push_back(make_pair());
  for (std::size_t i = 0; i < pairs * 2; ++i) {
    threads.emplace_back([&, i] {
      Pair& pair = *ends[i / 2];
      passed[i] = ping_pong(pair[i % 2], pair[1 - i % 2], i % 2 == 0) ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(std::ranges::count(passed, char{1}), static_cast<std::ptrdiff_t>(pairs * 2));
}

pid_t start_process(Pair& pair, std::size_t side) {
  const pid_t child = ::fork();
  if (child == 0) {
    bool passed = false;
    try {
      passed = ping_pong(pair[side], pair[1 - side], side == 0);
    } catch (...) {
      passed = false;
    }
    ::_exit(passed ? 0 : 1);
  }
  return child;
}

TEST(processes_wake_each_other) {
  std::vector<std::unique_ptr<Pair>> ends;
  std::vector<pid_t> children;
  for (std::size_t i = 0; i < more_than_cores(); ++i) {
    ends.push_back(make_pair());
    for (std::size_t side = 0; side < 2; ++side)
      children.push_back(start_process(*ends.back(), side));
  }
  std::size_t passed = 0;
  for (const pid_t child : children) {
    int status = 0;
    CHECK(child > 0 && ::waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) ++passed;
  }
  CHECK_EQ(passed, children.size());
}

// Frames that a process sent before it was killed can still be read.
TEST(a_killed_process_leaves_its_frames) {
  const std::unique_ptr<Pair> pair = make_pair();
  const auto receiver =
      make_shm_receiver(UniqueFd(::dup((*pair)[0].ring.get())), bell_of((*pair)[0]), make_shm_end(),
                        std::make_shared<PeerSegments>());
  const pid_t child = ::fork();
  if (child == 0) {
    const auto sender = make_shm_sender(UniqueFd(::dup((*pair)[0].ring.get())), bell_of((*pair)[1]),
                                        make_shm_end(), nullptr, [](uint32_t) {});
    const std::array<std::byte, 100> payload{std::byte{7}};
    Outgoing first{.header = {.ordinal = 1, .size_bytes = payload.size()},
                   .payload = payload.data()};
    sender->try_send(first);
    // The second frame fills the rest of the ring and is never complete.
    const std::vector<std::byte> large(100'000, std::byte{8});
    Outgoing second{.header = {.ordinal = 2, .size_bytes = large.size()}, .payload = large.data()};
    sender->try_send(second);
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  CHECK(child > 0 && ::waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
  FrameHeader header;
  std::array<std::byte, 100> target{};
  CHECK_EQ(receiver->peek(header), Io::kMoved);
  CHECK_EQ(header.ordinal, 1U);
  Incoming incoming{.target = target.data(), .size_bytes = header.size_bytes};
  receiver->hang_up();  // as the control thread does when a link ends
  CHECK_EQ(receiver->try_recv(incoming), Io::kMoved);
  CHECK(incoming.done && target[0] == std::byte{7});
  CHECK_EQ(receiver->peek(header), Io::kMoved);
  CHECK_EQ(header.ordinal, 2U);
  std::vector<std::byte> part(header.size_bytes);
  Incoming rest{.target = part.data(), .size_bytes = header.size_bytes};
  CHECK_EQ(receiver->try_recv(rest), Io::kMoved);
  CHECK_EQ(receiver->try_recv(rest), Io::kClosed);
  CHECK(!rest.done && rest.received_bytes > 0 && part[0] == std::byte{8});
}

}  // namespace
}  // namespace fastgpu::test
