// N ranks in one thread, on memory channels: the engine runs every algorithm, in a poll order and
// with faults drawn from a seed that is printed when a case fails and replays it.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "check.h"
#include "engine/operation_queue.h"
#include "engine/point_to_point.h"
#include "transport/faulty.h"
#include "transport/memory.h"

namespace fastgpu {
namespace {

constexpr int kLanes = 3;
constexpr int kMessageLane = kLanes;

struct World {
  // One rank's ends of the channels, made as they are asked for.
  struct Ends : ChannelSource {
    Ends(World& owner, int self) : world(owner), me(self) {}
    SendChannel* sender(int peer, int lane) override { return world.pair(me, peer, lane).first; }
    RecvChannel* receiver(int peer, int lane) override { return world.pair(peer, me, lane).second; }
    bool departed(int) override { return true; }
    uint64_t version() const override { return 1; }
    World& world;
    int me;
  };

  World(int count, std::size_t channel_capacity, uint64_t seed_of_case, const QueueHelp& help = {})
      : world(count), capacity(channel_capacity), seed(seed_of_case), random(seed_of_case) {
    for (int rank = 0; rank < world; ++rank) {
      ends.push_back(std::make_unique<Ends>(*this, rank));
      queues.push_back(std::make_unique<OperationQueue>(
          *ends.back(), kLanes, [](Failure&) {}, OperationQueue::AbandonHandler{}, help));
      messages.push_back(
          std::make_unique<PointToPoint>(*ends.back(), world, kMessageLane, [](Failure&) {}));
    }
  }

  std::pair<SendChannel*, RecvChannel*> pair(int from, int to, int lane) {
    const std::lock_guard lock(mutex);  // helpers ask, too
    const auto key = std::make_tuple(from, to, lane);
    auto found = channels.find(key);
    if (found == channels.end()) {
      FaultPlan faults = plan;
      faults.seed = seed + channels.size();
      auto ends_of = make_memory_channel(capacity, 24);
      found = channels
                  .emplace(key, ChannelPair{make_faulty(std::move(ends_of.first), faults),
                                            make_faulty(std::move(ends_of.second), faults)})
                  .first;
    }
    return {found->second.first.get(), found->second.second.get()};
  }

  // Polls ranks in a drawn order until nothing is pending, or for `passes` passes.
  bool run(int passes) {
    std::vector<std::size_t> order(static_cast<std::size_t>(world));
    std::iota(order.begin(), order.end(), std::size_t{0});
    for (int pass = 0; pass < passes; ++pass) {
      std::shuffle(order.begin(), order.end(), random);
      bool busy = false;
      for (const std::size_t rank : order) {
        if (queues[rank]->busy() && !queues[rank]->poll()) queues[rank]->expire(now_ns());
        if (messages[rank]->attentive() || messages[rank]->busy()) messages[rank]->poll();
        busy |= queues[rank]->busy() || messages[rank]->busy();
      }
      if (!busy) return true;
    }
    return false;
  }

  const int world;
  const std::size_t capacity;
  const uint64_t seed;
  FaultPlan plan;
  std::mt19937_64 random;
  std::mutex mutex;
  std::map<std::tuple<int, int, int>, ChannelPair> channels;
  std::vector<std::unique_ptr<Ends>> ends;
  std::vector<std::unique_ptr<OperationQueue>> queues;
  std::vector<std::unique_ptr<PointToPoint>> messages;
};

void add_int32(std::byte* target, const std::byte* source, std::size_t count) {
  auto* to = reinterpret_cast<int32_t*>(target);
  const auto* from = reinterpret_cast<const int32_t*>(source);
  for (std::size_t i = 0; i < count; ++i) to[i] += from[i];
}

std::atomic<int> copies{0};

void counted_copy(std::byte* target, const std::byte* source, std::size_t size_bytes) {
  ++copies;
  std::memcpy(target, source, size_bytes);
}

struct RankData {
  std::vector<int32_t> data;
  std::vector<std::byte> wire;
};

std::shared_ptr<Work> push_all_reduce(World& world, int rank, Algorithm algorithm, int lanes,
                                      RankData& memory) {
  PlanRequest request;
  request.collective = Collective::kAllReduce;
  request.algorithm = algorithm;
  request.rank = rank;
  request.world = world.world;
  request.count = memory.data.size();
  request.element_size = sizeof(int32_t);
  request.lanes = lanes;
  request.chunk_bytes = 64;
  auto operation = std::make_shared<Operation>();
  operation->schedule = std::make_shared<const Schedule>(build(request));
  memory.wire.resize(operation->schedule->wire_bytes);
  operation->data = reinterpret_cast<std::byte*>(memory.data.data());
  operation->wire = memory.wire.data();
  operation->call.collective = Collective::kAllReduce;
  operation->call.dtype = DType::kInt32;
  operation->call.algorithm = algorithm;
  operation->call.count = memory.data.size();
  operation->key = pack(operation->call);
  operation->reduce = add_int32;
  operation->copy = counted_copy;
  operation->element_size = sizeof(int32_t);
  world.queues[static_cast<std::size_t>(rank)]->push(operation);
  return work_of(operation);
}

std::string label(Algorithm algorithm, int world, std::size_t capacity, uint64_t seed) {
  return std::string(name_of(algorithm)) + " world " + std::to_string(world) + " capacity " +
         std::to_string(capacity) + " seed " + std::to_string(seed);
}

// Three operations at once, each with its own data.
void run_case(Algorithm algorithm, int count, std::size_t capacity, uint64_t seed,
              const QueueHelp& help = {}) {
  World world(count, capacity, seed, help);
  world.plan.block_probability = 0.3;
  std::vector<std::vector<RankData>> operations(3);
  std::vector<std::shared_ptr<Work>> works;
  for (std::size_t op = 0; op < operations.size(); ++op) {
    operations[op].resize(static_cast<std::size_t>(count));
    for (int rank = 0; rank < count; ++rank) {
      RankData& memory = operations[op][static_cast<std::size_t>(rank)];
      memory.data.assign(13 + seed % 40, rank + static_cast<int32_t>(op) * 100);
      works.push_back(
          push_all_reduce(world, rank, algorithm, 1 + static_cast<int>(op) % kLanes, memory));
    }
  }
  if (!world.run(200'000)) test::fail(__FILE__, __LINE__, label(algorithm, count, capacity, seed));
  for (const auto& work : works) {
    if (!work->ok()) {
      test::fail(__FILE__, __LINE__,
                 label(algorithm, count, capacity, seed) + ": " + work->failure().message);
    }
  }
  for (std::size_t op = 0; op < operations.size(); ++op) {
    const int32_t sum = count * (count - 1) / 2 + count * static_cast<int32_t>(op) * 100;
    for (const RankData& memory : operations[op]) {
      for (const int32_t value : memory.data) CHECK_EQ(value, sum);
    }
  }
}

TEST(the_engine_runs_every_algorithm_in_any_order) {
  uint64_t seed = 1;
  for (const Algorithm algorithm : algorithms_of(Collective::kAllReduce)) {
    for (const int world : {1, 2, 3, 4, 5, 8, 13, 33}) {
      for (const std::size_t capacity : {0, 1, 4}) run_case(algorithm, world, capacity, ++seed);
    }
  }
  CHECK(copies > 1000);  // sums that are stored, not to be read again
}

TEST(a_crew_polls_lanes_in_any_order) {
  uint64_t seed = 1000;
  for (const int helpers : {1, 2, 5}) {
    Crew crew;
    crew.grow(helpers);
    const QueueHelp help{.crew = &crew, .helpers = helpers, .least_bytes = 0};
    for (const Algorithm algorithm : algorithms_of(Collective::kAllReduce)) {
      for (const int world : {1, 2, 3, 5}) {
        for (const std::size_t capacity : {0, 4}) {
          run_case(algorithm, world, capacity, ++seed, help);
        }
      }
    }
  }
}

void corrupt_frames(const QueueHelp& help) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    World world(4, 4, seed, help);
    world.plan.corrupt_frame = seed % 2;
    std::vector<RankData> memory(4);
    std::vector<std::shared_ptr<Work>> works;
    for (int rank = 0; rank < 4; ++rank) {
      memory[static_cast<std::size_t>(rank)].data.assign(16, rank);
      works.push_back(push_all_reduce(world, rank, Algorithm::kRing, 2,
                                      memory[static_cast<std::size_t>(rank)]));
    }
    world.run(1000);
    const auto failed = std::find_if(works.begin(), works.end(),
                                     [](const auto& work) { return work->done() && !work->ok(); });
    CHECK(failed != works.end());
    CHECK((*failed)->failure().kind == ErrorKind::kMismatch);
  }
}

TEST(a_corrupted_frame_is_a_mismatch_and_never_a_wrong_result) {
  corrupt_frames({});
  Crew crew;
  crew.grow(2);
  corrupt_frames({.crew = &crew, .helpers = 2, .least_bytes = 0});
}

void close_channels(int lanes, const QueueHelp& help) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    World world(3, 1, seed, help);
    world.plan.close_after_calls = seed;
    std::vector<RankData> memory(9);
    std::vector<std::shared_ptr<Work>> works;
    int calls = 0;
    for (std::size_t i = 0; i < memory.size(); ++i) {
      memory[i].data.assign(100, 1);
      works.push_back(
          push_all_reduce(world, static_cast<int>(i % 3), Algorithm::kRing, lanes, memory[i]));
      works.back()->on_done([&calls] { ++calls; });
    }
    CHECK(world.run(10'000));
    for (const auto& work : works) CHECK(work->done());
    CHECK_EQ(calls, 9);
    CHECK(std::any_of(works.begin(), works.end(), [](const auto& work) {
      return !work->ok() && work->failure().kind == ErrorKind::kPeerLost;
    }));
  }
}

TEST(a_closed_channel_fails_every_pending_work_once) {
  close_channels(1, {});
  Crew crew;
  crew.grow(2);
  close_channels(kLanes, {.crew = &crew, .helpers = 2, .least_bytes = 0});
}

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
          const std::size_t size = i % 5 == 0 ? PointToPoint::kEagerBytes + 100 : 40;
          const auto tag = static_cast<uint32_t>(from * 1000 + i % 5);
          world.messages[static_cast<std::size_t>(from)]->post_send(
              message_of(to, tag, buffer(size, i)));
        }
        for (int i = kEach - 1; i >= 0; --i) {
          const int nth = i / 5 * 5 + (4 - i % 5);  // tags in another order, each tag's in order
          const int posted = kEach - 5 - nth / 5 * 5 + nth % 5;
          const std::size_t size = posted % 5 == 0 ? PointToPoint::kEagerBytes + 100 : 40;
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
      // Of one sender and tag, in the order sent.
      auto& before = last[{i / kEach, recvs[i]->tag}];
      CHECK(fill == static_cast<int>(recvs[i]->tag % 1000) || fill > before);
      before = fill;
    }
  }
}

TEST(an_unasked_for_flood_waits_at_its_sender) {
  World world(2, 4, 1);
  std::vector<std::byte> payload(1024);
  std::vector<std::shared_ptr<MessageOperation>> sends;
  for (uint32_t i = 0; i < 2 * PointToPoint::kMessageBudget; ++i) {
    sends.push_back(message_of(1, 7, payload));
    world.messages[0]->post_send(sends.back());
  }
  std::vector<std::byte> other(8);
  world.messages[1]->post_recv(message_of(0, 8, other));  // keeps the receiver attentive
  CHECK(!world.run(5000));
  const auto left = std::count_if(sends.begin(), sends.end(),
                                  [](const auto& send) { return !send->work->done(); });
  CHECK(left >= static_cast<std::ptrdiff_t>(PointToPoint::kMessageBudget));
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
