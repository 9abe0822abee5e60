// N ranks in one thread, on memory channels: the engine runs every algorithm, in a poll order and
// with faults drawn from a seed that is printed when a case fails and replays it.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "plan/build.h"
#include "sim/memory_world.h"

namespace fastgpu {
namespace {

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
};

std::shared_ptr<Work> push_all_reduce(World& world, int rank, Algorithm algorithm, int lanes,
                                      RankData& memory, TimeNs timeout_ns = kNever) {
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
  Task& task = operation->task;
  task.schedule = std::make_shared<const Schedule>(build(request));
  task.data = reinterpret_cast<std::byte*>(memory.data.data());
  task.scratch_pool = std::make_shared<ScratchPool>();
  task.call.shape.collective = Collective::kAllReduce;
  task.call.shape.dtype = DType::kInt32;
  task.call.shape.count = memory.data.size();
  task.call.algorithm = algorithm;
  task.key = pack(task.call);
  task.reduce = add_int32;
  task.copy = counted_copy;
  task.element_size = sizeof(int32_t);
  task.timeout_ns = timeout_ns;
  world.queues[static_cast<std::size_t>(rank)]->push(operation);
  return work_of(operation);
}

std::string label(Algorithm algorithm, int world, std::size_t capacity, uint64_t seed) {
  return std::string(name_of(algorithm)) + " world " + std::to_string(world) + " capacity " +
         std::to_string(capacity) + " seed " + std::to_string(seed);
}

// Three operations at once, each with its own data.
void run_case(Algorithm algorithm, int count, std::size_t capacity, uint64_t seed) {
  World world(count, capacity, seed);
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

TEST(a_corrupted_frame_is_a_mismatch_and_never_a_wrong_result) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    World world(4, 4, seed);
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

TEST(a_closed_channel_fails_every_pending_work_once) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    World world(3, 1, seed);
    world.plan.close_after_calls = seed;
    std::vector<RankData> memory(9);
    std::vector<std::shared_ptr<Work>> works;
    int calls = 0;
    for (std::size_t i = 0; i < memory.size(); ++i) {
      memory[i].data.assign(100, 1);
      works.push_back(
          push_all_reduce(world, static_cast<int>(i % 3), Algorithm::kRing, 1, memory[i]));
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

Failure reason_of_mismatch() {
  Failure reason;
  reason.kind = ErrorKind::kMismatch;
  reason.message = "rank 1 called something else";
  return reason;
}

// Rank 2 of a ring does not come. Rank 1 waits for rank 0, which is not to blame: it waits itself.
TEST(a_time_out_says_whether_the_peer_has_begun) {
  struct Case {
    std::size_t rank;
    int peer;
    const char* wait;
  };
  for (const Case& each :
       {Case{0, 2, " waited for rank 2, which has sent nothing for it yet, and may wait"},
        Case{1, 0, " waited for rank 0, which takes part in it and is slow, or waits"}}) {
    World world(3, 256, 1);
    std::vector<RankData> memory(2);
    std::vector<std::shared_ptr<Work>> works;
    for (int rank = 0; rank < 2; ++rank) {
      RankData& data = memory[static_cast<std::size_t>(rank)];
      data.data.assign(12, rank);
      works.push_back(push_all_reduce(world, rank, Algorithm::kRing, 1, data, 5000 * kSecond));
    }
    CHECK(!world.run(100));
    world.queues[each.rank]->expire(now_ns() + 5001 * kSecond);
    const auto& work = works[each.rank];
    CHECK(work->done());
    CHECK_THROWS(work->raise_if_failed(), CollectiveTimeoutError,
                 "Timed out after 5000000 ms: all_reduce(count=12, dtype=int32");
    CHECK_THROWS(work->raise_if_failed(), CollectiveTimeoutError, each.wait);
    CHECK_EQ(work->failure().peer, each.peer);
  }
}

TEST(a_time_out_behind_another_operation_names_that_one) {
  World world(2, 256, 1);
  std::vector<RankData> memory(2);
  for (RankData& data : memory) data.data.assign(12, 1);
  push_all_reduce(world, 0, Algorithm::kRing, 1, memory[0]);
  const auto behind = push_all_reduce(world, 0, Algorithm::kRing, 1, memory[1], kSecond);
  CHECK(!world.run(100));
  world.queues[0]->expire(now_ns() + 2 * kSecond);
  CHECK_THROWS(behind->raise_if_failed(), CollectiveTimeoutError,
               " waited for an earlier operation, all_reduce #1");
  CHECK_EQ(behind->failure().peer, kNoRank);
}

// As the control thread does: the reason first, then that the peer is gone.
TEST(a_reason_that_comes_as_the_peer_goes_is_the_one_reported) {
  World world(2, 256, 1);
  world.before_departed = [&] { world.latches[0]->report(reason_of_mismatch()); };
  RankData memory;
  memory.data.assign(64, 1);
  const auto work = push_all_reduce(world, 0, Algorithm::kRing, 1, memory);
  world.pair(1, 0, 0).first->hang_up();
  world.run(100);
  CHECK_THROWS(work->raise_if_failed(), CollectiveMismatchError, "something else");
}

// Every pending work fails exactly once, at the next poll of the queue that holds it.
TEST(one_failure_fails_collectives_and_messages) {
  World world(2, 4, 1);
  RankData memory;
  memory.data.assign(64, 1);
  const auto work = push_all_reduce(world, 0, Algorithm::kRing, 1, memory);
  const auto recv = std::make_shared<MessageOperation>();
  recv->peer = 1;
  recv->work = std::make_shared<Work>();
  world.messages[0]->post_recv(recv);
  int calls = 0;
  for (const auto& each : {work, recv->work}) each->on_done([&calls] { ++calls; });
  world.run(10);
  CHECK(!work->done() && !recv->work->done());
  world.latches[0]->report(reason_of_mismatch());
  world.run(10);
  CHECK_EQ(calls, 2);
  CHECK_EQ(work->failure().op, "all_reduce");
  CHECK_EQ(work->failure().sequence, 1);
  CHECK_THROWS(recv->work->raise_if_failed(), CollectiveMismatchError, "something else");
  CHECK_EQ(recv->work->failure().op, "recv");
  CHECK_EQ(recv->work->failure().sequence, -1);
  CHECK(!world.queues[0]->busy() && !world.messages[0]->busy());
  CHECK_THROWS(push_all_reduce(world, 0, Algorithm::kRing, 1, memory), CollectiveMismatchError,
               "something else");
  CHECK_THROWS(world.messages[0]->post_recv(recv), CollectiveMismatchError, "something else");
}

TEST(a_reason_that_comes_as_the_sender_goes_is_the_one_reported) {
  World world(2, 256, 1);
  world.before_departed = [&] { world.latches[0]->report(reason_of_mismatch()); };
  const auto recv = std::make_shared<MessageOperation>();
  recv->peer = 1;
  recv->work = std::make_shared<Work>();
  world.messages[0]->post_recv(recv);
  world.pair(1, 0, kMessageLane).first->hang_up();
  world.run(100);
  CHECK_THROWS(recv->work->raise_if_failed(), CollectiveMismatchError, "something else");
}

}  // namespace
}  // namespace fastgpu
