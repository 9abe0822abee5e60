// Messages between ranks in one thread: they match by peer and tag, arrive whole and in order, and
// fail in time when a rank leaves.
#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "check.h"
#include "sim/memory_world.h"

namespace fastgpu {
namespace {

std::shared_ptr<MessageOperation> message_of(int peer, uint32_t tag, std::vector<std::byte>& data) {
  auto message = std::make_shared<MessageOperation>();
  message->peer = peer;
  message->tag = tag;
  message->data = data.data();
  message->size_bytes = data.size();
  message->work = std::make_shared<Work>();
  return message;
}

// Every rank sends to every other one, in a drawn order of tags and sizes around the eager limit,
// and receives in another order; half of the receives take any source.
TEST(messages_arrive_whole_and_in_order) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    constexpr int kWorld = 4;
    constexpr int kEach = 25;
    World world(kWorld, seed % 3, seed);
    world.plan.block_probability = 0.2;
    std::vector<std::unique_ptr<std::vector<std::byte>>> memory;
    std::vector<std::shared_ptr<MessageOperation>> recvs;
    const auto buffer = [&](std::size_t size, int fill) -> std::vector<std::byte>& {
      memory.push_back(
          std::make_unique<std::vector<std::byte>>(size, static_cast<std::byte>(fill)));
      return *memory.back();
    };
    for (int from = 0; from < kWorld; ++from) {
      for (int to = 0; to < kWorld; ++to) {
        if (from == to) continue;
        for (int i = 0; i < kEach; ++i) {
          const std::size_t size = i % 5 == 0 ? PeerStream::kEagerBytes + 100 : 40;
          const auto tag = static_cast<uint32_t>(from * 1000 + i % 5);
          world.messages[static_cast<std::size_t>(from)]->post_send(
              message_of(to, tag, buffer(size, i)));
        }
        for (int i = kEach - 1; i >= 0; --i) {
          const int nth = i / 5 * 5 + (4 - i % 5);  // tags in another order, each tag's in order
          const int posted = kEach - 5 - nth / 5 * 5 + nth % 5;
          const std::size_t size = posted % 5 == 0 ? PeerStream::kEagerBytes + 100 : 40;
          const auto tag = static_cast<uint32_t>(from * 1000 + posted % 5);
          recvs.push_back(message_of(i % 2 == 0 ? from : kNoRank, tag, buffer(size, 0xff)));
          recvs.back()->moved_bytes = 0;
          world.messages[static_cast<std::size_t>(to)]->post_recv(recvs.back());
        }
      }
    }
    if (!world.run(500'000)) test::fail(__FILE__, __LINE__, "seed " + std::to_string(seed));
    std::map<std::tuple<std::size_t, uint32_t>, int> last;
    for (std::size_t i = 0; i < recvs.size(); ++i) {
      CHECK(recvs[i]->work->ok());
      CHECK_EQ(recvs[i]->work->source(), static_cast<int>(recvs[i]->tag / 1000));
      const int fill = static_cast<int>(*recvs[i]->data);
      CHECK_EQ(fill % 5, static_cast<int>(recvs[i]->tag % 1000));
      CHECK_EQ(static_cast<int>(recvs[i]->data[recvs[i]->size_bytes - 1]), fill);
      // Messages of one sender and tag arrive in the order sent.
      auto& before = last[{i / kEach, recvs[i]->tag}];
      CHECK(fill == static_cast<int>(recvs[i]->tag % 1000) || fill > before);
      before = fill;
    }
  }
}

TEST(a_receive_from_any_rank_ends_with_the_last_that_leaves) {
  World world(3, 4, 1);
  std::vector<std::byte> data(8);
  const auto recv = message_of(kNoRank, 7, data);
  world.messages[0]->post_recv(recv);
  world.depart(1, Presence::kLeft);
  CHECK(!world.run(10));
  const int looks = world.presence_looks;
  CHECK(!world.run(1000));
  CHECK_EQ(world.presence_looks, looks);  // presence is looked up when it changes, not at each poll
  world.depart(2, Presence::kLeft);
  CHECK(world.run(10));
  CHECK(recv->work->failure().kind == ErrorKind::kPeerLost);
}

TEST(a_receive_from_any_rank_ends_with_one_that_is_lost) {
  World world(3, 4, 1);
  std::vector<std::byte> data(8);
  const auto recv = message_of(kNoRank, 7, data);
  world.messages[0]->post_recv(recv);
  CHECK(!world.run(10));
  world.depart(1, Presence::kLost);
  CHECK(world.run(10));
  CHECK(recv->work->failure().kind == ErrorKind::kPeerLost);
}

TEST(the_first_message_to_time_out_need_not_be_the_first_posted) {
  World world(2, 4, 1);
  std::vector<std::byte> data(8);
  const auto post = [&](uint32_t tag, TimeNs deadline) {
    const auto recv = message_of(1, tag, data);
    recv->deadline = deadline;
    world.messages[0]->post_recv(recv);
    CHECK(!world.run(3));
    return recv->work;
  };
  const auto last = post(1, 1000);
  const auto served = post(2, 500);
  CHECK_EQ(world.messages[0]->next_deadline(), 500);
  world.messages[1]->post_send(message_of(0, 2, data));
  CHECK(!world.run(10));
  CHECK(served->ok() && served->done());
  world.messages[0]->expire(600);  // looks through all, for the sake of one that is done
  CHECK_EQ(world.messages[0]->next_deadline(), 1000);
  const auto first = post(3, 700);
  world.messages[0]->expire(699);
  CHECK(!first->done());
  world.messages[0]->expire(700);
  CHECK(first->failure().kind == ErrorKind::kTimeout);
  CHECK(last->done() && !last->ok());  // the first failure is everyone's
}

TEST(an_unasked_for_flood_waits_at_its_sender) {
  World world(2, 4, 1);
  std::vector<std::byte> payload(1024);
  std::vector<std::shared_ptr<MessageOperation>> sends;
  for (uint32_t i = 0; i < 2 * PeerStream::kMessageBudget; ++i) {
    sends.push_back(message_of(1, 7, payload));
    world.messages[0]->post_send(sends.back());
  }
  std::vector<std::byte> other(8);
  world.messages[1]->post_recv(message_of(0, 8, other));  // keeps the receiver polling
  CHECK(!world.run(5000));
  const auto left = std::count_if(sends.begin(), sends.end(),
                                  [](const auto& send) { return !send->work->done(); });
  CHECK(left >= static_cast<std::ptrdiff_t>(PeerStream::kMessageBudget));
  std::vector<std::byte> sink(1024);
  std::vector<std::shared_ptr<MessageOperation>> recvs;
  for (std::size_t i = 0; i < sends.size(); ++i) {
    recvs.push_back(message_of(0, 7, sink));
    world.messages[1]->post_recv(recvs.back());
  }
  std::vector<std::byte> last(8);
  world.messages[0]->post_send(message_of(1, 8, last));
  CHECK(world.run(500'000));
}

}  // namespace
}  // namespace fastgpu
