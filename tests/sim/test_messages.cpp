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

std::shared_ptr<Work> post_recv(World& world, int rank, int peer, uint32_t tag,
                                std::vector<std::byte>& data, TimeNs timeout_ns) {
  const auto recv = message_of(peer, tag, data);
  recv->work = std::make_shared<Work>(timeout_ns);
  world.messages[static_cast<std::size_t>(rank)]->post_recv(recv);
  CHECK(!world.run(3));
  return recv->work;
}

TEST(the_time_of_a_message_runs_while_somebody_waits_for_it) {
  World world(2, 4, 1);
  std::vector<std::byte> data(8);
  const auto recv = post_recv(world, 0, 1, 7, data, 3 * kSecond);
  CHECK_EQ(world.messages[0]->next_deadline(), kNever);
  world.messages[0]->expire(now_ns() + 1000 * kSecond);
  CHECK(!recv->done());
  CHECK(world.messages[0]->await(*recv));
  const TimeNs deadline = recv->deadline();
  CHECK(deadline > now_ns() && deadline <= now_ns() + 3 * kSecond);
  CHECK_EQ(world.messages[0]->next_deadline(), deadline);
  CHECK(!world.messages[0]->await(*recv));  // a second wait does not prolong the first
  CHECK_EQ(recv->deadline(), deadline);
  world.messages[0]->expire(deadline - 1);
  CHECK(!recv->done());
  world.messages[0]->expire(deadline);
  CHECK(recv->failure().kind == ErrorKind::kTimeout);
  CHECK_EQ(recv->failure().message,
           "Timed out after 3000 ms: recv of 8 elements of uint8 with tag 7 waited for rank 1");
  CHECK_EQ(recv->failure().op, "recv");
  CHECK_EQ(recv->failure().peer, 1);
}

// The wait begins while the receive is still in the inbox.
TEST(the_time_of_a_message_runs_from_a_wait_before_the_first_poll) {
  World world(2, 4, 1);
  std::vector<std::byte> data(8);
  const auto send = message_of(1, 7, data);
  send->work = std::make_shared<Work>(kSecond);
  send->size_bytes = PeerStream::kEagerBytes + 1;
  data.resize(send->size_bytes);
  send->data = data.data();
  world.messages[0]->post_send(send);
  send->work->start_time();
  CHECK(!world.run(3));
  CHECK_EQ(world.messages[0]->next_deadline(), send->work->deadline());
  world.messages[0]->expire(send->work->deadline());
  CHECK_EQ(send->work->failure().op, "send");
  CHECK_THROWS(send->work->raise_if_failed(), CollectiveTimeoutError,
               "Timed out after 1000 ms: send of 16385 elements of uint8 with tag 7 waited for "
               "rank 1");
}

TEST(the_first_message_to_time_out_need_not_be_the_first_posted) {
  World world(2, 4, 1);
  std::vector<std::byte> data(8);
  const auto post = [&](uint32_t tag, TimeNs timeout_ns) {
    const auto work = post_recv(world, 0, 1, tag, data, timeout_ns);
    world.messages[0]->await(*work);
    return work;
  };
  const auto last = post(1, 1000 * kSecond);
  const auto served = post(2, 500 * kSecond);
  CHECK_EQ(world.messages[0]->next_deadline(), served->deadline());
  world.messages[1]->post_send(message_of(0, 2, data));
  CHECK(!world.run(10));
  CHECK(served->ok() && served->done());
  world.messages[0]->expire(served->deadline());  // looks through all, and finds it done
  CHECK_EQ(world.messages[0]->next_deadline(), last->deadline());
  const auto first = post(3, 700 * kSecond);
  world.messages[0]->expire(first->deadline() - 1);
  CHECK(!first->done());
  world.messages[0]->expire(first->deadline());
  CHECK(first->failure().kind == ErrorKind::kTimeout);
  CHECK(last->done() && !last->ok());  // the first failure is everyone's
}

// As MPI guarantees: a send and a receive that match complete, whatever else was sent before.
TEST(messages_that_nobody_asks_for_do_not_hold_up_one_that_is_asked_for) {
  struct Flood {
    std::size_t size;
    uint64_t count;
  };
  for (const Flood& flood : {Flood{0, 20'000}, Flood{PeerStream::kEagerBytes, 80}}) {
    World world(2, 4, 1);
    std::vector<std::vector<std::byte>> sent;
    std::vector<std::shared_ptr<MessageOperation>> sends;
    const auto send = [&](uint32_t tag, std::size_t size) {
      sent.emplace_back(size, static_cast<std::byte>(sent.size()));
      sends.push_back(message_of(1, tag, sent.back()));
      world.messages[0]->post_send(sends.back());
    };
    for (uint64_t i = 0; i < flood.count; ++i) send(7, flood.size);
    send(8, 40);
    std::vector<std::byte> wanted(40);
    const auto recv = message_of(0, 8, wanted);
    world.messages[1]->post_recv(recv);
    for (int i = 0; i < 1000 && !recv->work->done(); ++i) world.run(1000);
    CHECK(recv->work->done() && recv->work->ok());
    CHECK(wanted == sent.back());
    // The rest of the flood keeps its payload at the sender.
    const auto gone = static_cast<uint64_t>(
        std::ranges::count_if(sends, [](const auto& message) { return message->work->done(); }));
    CHECK(gone < flood.count);
    CHECK((gone - 1) * (flood.size + PeerStream::kEagerOverhead) <= PeerStream::kEagerBudget);
    std::vector<std::vector<std::byte>> received(flood.count, std::vector<std::byte>(flood.size));
    for (auto& data : received) world.messages[1]->post_recv(message_of(0, 7, data));
    CHECK(world.run(2'000'000));
    for (uint64_t i = 0; i < flood.count; ++i) CHECK(received[i] == sent[i]);
    // The budget has come back: messages are sent at once again.
    for (int i = 0; i < 3; ++i) send(9, flood.size);
    CHECK(world.run(10'000));
  }
}

// Credits for what rank 0 sent need rank 0 no more. A message that it never finished sending does.
TEST(what_a_rank_sent_before_it_left_can_be_received) {
  for (const Presence how : {Presence::kLeft, Presence::kLost}) {
    World world(2, 64, 1);
    std::vector<std::byte> payload(PeerStream::kEagerBytes, std::byte{5});
    std::vector<std::byte> token(1);
    world.messages[1]->post_send(message_of(0, 1, token));  // opens the channel that credits take
    world.messages[0]->post_recv(message_of(1, 1, token));
    for (int i = 0; i < 20; ++i) world.messages[0]->post_send(message_of(1, 7, payload));
    CHECK(world.run(100'000));
    std::vector<std::byte> large(PeerStream::kEagerBytes + 1);
    world.messages[0]->post_send(message_of(1, 8, large));
    CHECK(!world.run(100));
    world.depart(0, how);
    world.pair(1, 0, kMessageLane).first->hang_up();
    std::vector<std::vector<std::byte>> received(20, std::vector<std::byte>(payload.size()));
    std::vector<std::shared_ptr<MessageOperation>> recvs;
    for (auto& data : received) {
      recvs.push_back(message_of(0, 7, data));
      world.messages[1]->post_recv(recvs.back());
      for (int i = 0; i < 10; ++i) world.messages[1]->poll();
    }
    for (const auto& recv : recvs) CHECK(recv->work->done() && recv->work->ok());
    for (const auto& data : received) CHECK(data == payload);
    CHECK(world.latches[1]->failure() == nullptr);
    const auto unfinished = message_of(0, 8, large);
    world.messages[1]->post_recv(unfinished);
    for (int i = 0; i < 10; ++i) world.messages[1]->poll();
    CHECK(unfinished->work->done());
    CHECK(unfinished->work->failure().kind == ErrorKind::kPeerLost);
  }
}

TEST(messages_of_another_dtype_or_size_do_not_match) {
  struct Case {
    DType sent;
    std::size_t sent_bytes;
    DType wanted;
    std::size_t wanted_bytes;
    const char* error;
  };
  for (const Case& each :
       {Case{DType::kFloat32, 16, DType::kFloat64, 16,
             "rank 0 sent 4 elements of float32 with tag 7, but the matching receive takes 2 "
             "elements of float64"},
        Case{DType::kFloat32, 4, DType::kInt32, 4, "1 element of float32"},
        Case{DType::kUInt8, 20'000, DType::kInt8, 20'000, "20000 elements of int8"},
        Case{DType::kFloat32, 16, DType::kFloat32, 20, "takes 5 elements of float32"}}) {
    for (const bool sends_first : {true, false}) {
      World world(2, 4, 1);
      std::vector<std::byte> data(20'000);
      const auto send = message_of(1, 7, data);
      send->dtype = each.sent;
      send->size_bytes = each.sent_bytes;
      const auto recv = message_of(0, 7, data);
      recv->dtype = each.wanted;
      recv->size_bytes = each.wanted_bytes;
      if (sends_first) {
        std::vector<std::byte> token(1);
        world.messages[0]->post_send(send);
        world.messages[0]->post_send(message_of(1, 8, token));
        world.messages[1]->post_recv(message_of(0, 8, token));
        world.run(10'000);
      }
      world.messages[1]->post_recv(recv);
      if (!sends_first) world.messages[0]->post_send(send);
      world.run(10'000);
      CHECK(recv->work->done());
      CHECK_THROWS(recv->work->raise_if_failed(), CollectiveMismatchError, each.error);
    }
  }
}

}  // namespace
}  // namespace fastgpu
