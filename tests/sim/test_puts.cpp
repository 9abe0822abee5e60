// Puts between ranks in one thread: they write the target's window, in the order of the calls, and
// are there when a later message arrives.
#include <algorithm>
#include <cstddef>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "sim/memory_world.h"

namespace fastgpu {
namespace {

using Bytes = std::vector<std::byte>;

constexpr uint32_t kWindow = 3;
constexpr uint32_t kSignal = 0x80000000;
constexpr uint64_t kTwoPieces = PeerStream::kPieceBytes + 5000;

std::shared_ptr<MessageOperation> operation(int peer, uint32_t tag, Bytes& data) {
  auto made = std::make_shared<MessageOperation>();
  made->peer = peer;
  made->tag = tag;
  made->data = data.data();
  made->size_bytes = data.size();
  made->work = std::make_shared<Work>();
  return made;
}

std::shared_ptr<Work> post_put(MessageQueue& from, int peer, uint64_t offset_bytes, Bytes& data) {
  const auto put = operation(peer, kWindow, data);
  put->put_offset_bytes = offset_bytes;
  from.post_send(put);
  return put->work;
}

// The first poll lets the queue listen to the channels that are there.
void open_window(MessageQueue& queue, Bytes& memory, std::shared_ptr<void> owner = nullptr) {
  queue.windows().add(
      kWindow,
      {.data = memory.data(), .size_bytes = memory.size(), .keep_alive = std::move(owner)});
  queue.poll();
}

// Both ranks put random pieces into each other's window, with messages of all sizes between them,
// then signal. Each window must end as if its puts had been written in order.
TEST(puts_arrive_in_order_and_before_a_later_message) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    World world(2, seed % 3 + 1, seed);
    world.plan.block_probability = 0.2;
    std::mt19937_64 random(seed);
    std::vector<Bytes> windows(2, Bytes(kTwoPieces));
    std::vector<Bytes> wanted = windows;
    std::vector<std::unique_ptr<Bytes>> memory;
    std::vector<std::shared_ptr<Work>> works;
    const auto buffer = [&](uint64_t size_bytes) -> Bytes& {
      memory.push_back(std::make_unique<Bytes>(size_bytes, static_cast<std::byte>(random())));
      return *memory.back();
    };
    const auto exchange = [&](int from, int to, uint32_t tag, uint64_t size_bytes) {
      const auto send = operation(to, tag, buffer(size_bytes));
      const auto recv = operation(from, tag, buffer(size_bytes));
      world.messages[static_cast<std::size_t>(from)]->post_send(send);
      world.messages[static_cast<std::size_t>(to)]->post_recv(recv);
      works.insert(works.end(), {send->work, recv->work});
    };
    for (int rank = 0; rank < 2; ++rank) {
      open_window(*world.messages[static_cast<std::size_t>(rank)],
                  windows[static_cast<std::size_t>(rank)]);
    }
    for (int from = 0; from < 2; ++from) {
      const int to = 1 - from;
      for (int i = 0; i < 12; ++i) {
        const bool large = i == 5 && seed % 5 == 0;
        const uint64_t size_bytes = large ? kTwoPieces - random() % 4000 : random() % 4000;
        const uint64_t offset_bytes = random() % (kTwoPieces - size_bytes + 1);
        Bytes& data = buffer(size_bytes);
        works.push_back(
            post_put(*world.messages[static_cast<std::size_t>(from)], to, offset_bytes, data));
        std::ranges::copy(data, wanted[static_cast<std::size_t>(to)].begin() +
                                    static_cast<std::ptrdiff_t>(offset_bytes));
        if (i % 3 == 0) exchange(from, to, 7, i % 2 == 0 ? 100 : PeerStream::kEagerBytes + 1);
      }
      exchange(from, to, kSignal, 0);
    }
    if (!world.run(500'000)) test::fail(__FILE__, __LINE__, "seed " + std::to_string(seed));
    CHECK(std::ranges::all_of(works, [](const auto& work) { return work->ok(); }));
    CHECK(windows == wanted);
  }
}

TEST(a_signal_does_not_pass_a_put_in_pieces) {
  World world(2, 1, 5);
  Bytes window(kTwoPieces);
  Bytes data(window.size(), std::byte{9});
  Bytes none;
  open_window(*world.messages[1], window);
  post_put(*world.messages[0], 1, 0, data);
  world.messages[0]->post_send(operation(1, kSignal, none));
  const auto signal = operation(0, kSignal, none);
  world.messages[1]->post_recv(signal);
  while (window.back() == std::byte{0}) {
    CHECK(!signal->work->done());
    world.run(1);
  }
  CHECK(world.run(100));
  CHECK(window == data);
  CHECK(signal->work->ok());
}

TEST(a_put_outside_of_a_window_fails_the_target) {
  for (const uint64_t offset_bytes : {uint64_t{93}, uint64_t{101}, UINT64_MAX - 3}) {
    World world(2, 4, 1);
    Bytes window(100);
    Bytes data(8, std::byte{1});
    Bytes none;
    open_window(*world.messages[1], window);
    post_put(*world.messages[0], 1, offset_bytes, data);
    const auto signal = operation(0, kSignal, none);
    world.messages[1]->post_recv(signal);
    CHECK(world.run(100));
    CHECK_THROWS(signal->work->raise_if_failed(), PeerLostError, "outside of this rank's windows");
    CHECK(window == Bytes(100));
  }
}

TEST(a_put_into_a_closed_window_fails_the_target) {
  World world(2, 4, 1);
  Bytes window(100);
  Bytes data(8, std::byte{1});
  Bytes none;
  open_window(*world.messages[1], window);
  world.messages[1]->windows().remove(kWindow);
  post_put(*world.messages[0], 1, 0, data);
  const auto signal = operation(0, kSignal, none);
  world.messages[1]->post_recv(signal);
  CHECK(world.run(100));
  CHECK_THROWS(signal->work->raise_if_failed(), PeerLostError, "8 bytes at 0 of window 3");
  CHECK(window == Bytes(100));
}

// A closed window's memory stays until the put that is arriving has ended.
TEST(an_arriving_put_keeps_its_window_alive) {
  World world(2, 1, 1);
  const auto window = std::make_shared<Bytes>(PeerStream::kPieceBytes);
  Bytes data(window->size(), std::byte{4});
  open_window(*world.messages[1], *window, window);
  const auto put = post_put(*world.messages[0], 1, 0, data);
  while (window->front() == std::byte{0}) world.run(1);
  CHECK(!put->done());
  world.messages[1]->windows().remove(kWindow);
  CHECK_EQ(window.use_count(), 2);
  CHECK(world.run(500'000));
  while (window.use_count() > 1) world.run(1);
  CHECK(*window == data);
}

// A peer that goes while a put to it is under way: each pending call fails once.
TEST(a_put_fails_with_its_group) {
  World world(2, 1, 2);
  Bytes window(kTwoPieces);
  Bytes data(window.size(), std::byte{9});
  open_window(*world.messages[1], window);
  const auto first = post_put(*world.messages[0], 1, 0, data);
  const auto second = post_put(*world.messages[0], 1, 0, data);
  while (window.front() == std::byte{0}) world.run(1);
  world.latches[0]->report(make_failure(ErrorKind::kPeerLost, "it ended"));
  CHECK(!first->done());
  world.run(3);
  for (const auto& put : {first, second}) {
    CHECK_THROWS(put->raise_if_failed(), PeerLostError, "With it failed this rank's send");
  }
  CHECK(!world.messages[0]->busy());
}

}  // namespace
}  // namespace fastgpu
