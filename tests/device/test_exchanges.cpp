// The engine runs every collective over device channels with the bits that it has over host memory:
// ranks that share a device, ranks that map each other's, and ranks on other hosts.
#include <algorithm>
#include <atomic>
#include <thread>

#include "check.h"
#include "exchange_world.h"
#include "seeds.h"

namespace fastgpu::test {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr uint64_t kCases = 30;
#else
constexpr uint64_t kCases = 60;
#endif

ExchangeCase all_reduce_case(int world, uint64_t count) {
  ExchangeCase exchange;
  exchange.request.collective = Collective::kAllReduce;
  exchange.request.algorithm = Algorithm::kDirect;
  exchange.request.world = world;
  exchange.request.count = count;
  exchange.request.element_size = sizeof(float);
  return exchange;
}

// Begins an operation on the first `ranks` ranks.
std::vector<std::shared_ptr<Work>> start(ExchangeWorld& world, int ranks) {
  std::vector<std::shared_ptr<Work>> works;
  for (int rank = 0; rank < ranks; ++rank) {
    works.push_back(
        world.rank(rank).start(world.schedule(rank), draw_buffers(world.exchange(), rank, 0)));
  }
  return works;
}

// Polls until every work is done.
void finish(ExchangeWorld& world, const std::vector<std::shared_ptr<Work>>& works) {
  const TimeNs deadline = now_ns() + 20'000'000'000;
  const auto done = [](const auto& work) { return work->done(); };
  while (!std::ranges::all_of(works, done)) {
    world.poll();
    CHECK(now_ns() < deadline);
  }
}

TEST(device_channels_have_the_bits_of_host_memory) {
  for (const uint64_t seed : seeds()) {
    for (uint64_t i = 0; i < kCases; ++i)
      CHECK_EQ(run_exchange(draw_exchange(seed * 1000 + i)), "");
  }
}

// A long stream of work on the device, so that the host is far ahead of it.
TEST(operations_follow_each_other_without_the_host) {
  ExchangeCase exchange = all_reduce_case(3, 257);
  exchange.most_delay_us = 2000;
  exchange.ranks_per_device = 3;
  for (const Algorithm algorithm : {Algorithm::kDirect, Algorithm::kRing, Algorithm::kTree}) {
    exchange.request.algorithm = algorithm;
    CHECK_EQ(run_exchange(exchange), "");
  }
}

#if !defined(__SANITIZE_THREAD__)  // it ends the program with the race that it finds
TEST(planted_faults_of_the_device_are_found) {
  for (const RuntimeFault fault : {RuntimeFault::kEventsPassEarly, RuntimeFault::kWaitsForgotten}) {
    int found = 0;
    for (uint64_t seed = 1; seed <= 20 && found == 0; ++seed) {
      ExchangeCase exchange = all_reduce_case(3, 100);
      exchange.seed = seed;
      exchange.most_delay_us = 300;
      exchange.fault = fault;
      if (run_exchange(exchange).find("differs") != std::string::npos) ++found;
    }
    CHECK_EQ(found, 1);
  }
}
#endif

TEST(a_device_that_fails_fails_the_operation) {
  ExchangeCase exchange = all_reduce_case(2, 100);
  exchange.fault = RuntimeFault::kDeviceFails;
  ExchangeWorld world(exchange);
  const auto works = start(world, 2);
  finish(world, works);
  for (const auto& work : works) {
    CHECK(!work->ok());
    CHECK(work->failure().message.find("it has failed") != std::string::npos);
    CHECK_EQ(work->failure().op, "all_reduce");
    CHECK_EQ(work->failure().peer, kNoRank);  // it is no peer's fault
  }
  for (int rank = 0; rank < 2; ++rank) {
    world.rank(rank).poll();
    CHECK(!world.rank(rank).busy());
  }
}

TEST(a_peer_that_closes_fails_the_operation) {
  ExchangeWorld world(all_reduce_case(3, 100));
  const auto works = start(world, 2);
  for (int turn = 0; turn < 50; ++turn) world.poll();
  for (int lane = 0; lane < 2; ++lane) {
    for (int peer = 0; peer < 2; ++peer) {
      world.host().pair(2, peer, lane).first->hang_up();
      world.host().pair(peer, 2, lane).second->hang_up();
    }
  }
  finish(world, works);
  for (const auto& work : works) {
    CHECK(work->failure().kind == ErrorKind::kPeerLost);
    CHECK_EQ(work->failure().peer, 2);
  }
  while (world.poll()) continue;
  for (int rank = 0; rank < 2; ++rank) CHECK_EQ(world.rank(rank).kept(), 0L);
}

TEST(different_calls_are_both_named) {
  ExchangeWorld world(all_reduce_case(2, 100));
  ExchangeCase other = all_reduce_case(2, 100);
  other.reduce_op = ReduceOp::kMax;
  const auto mine = world.rank(0).start(world.schedule(0), draw_buffers(other, 0, 0));
  const auto theirs = world.rank(1).start(world.schedule(1), draw_buffers(other, 1, 0), other);
  const TimeNs deadline = now_ns() + 20'000'000'000;
  while (!mine->done() && !theirs->done() && now_ns() < deadline) world.poll();
  const auto& failed = mine->done() ? mine : theirs;
  CHECK(failed->done() && failed->failure().kind == ErrorKind::kMismatch);
  for (const char* call : {"op=SUM", "op=MAX"}) {
    CHECK(failed->failure().message.find(call) != std::string::npos);
  }
}

TEST(a_silent_peer_lets_the_time_run_out) {
  ExchangeCase exchange = all_reduce_case(2, 100);
  exchange.timeout_ns = 30'000'000;
  ExchangeWorld world(exchange);
  const auto works = start(world, 1);
  finish(world, works);
  CHECK(works.front()->failure().kind == ErrorKind::kTimeout);
  CHECK_EQ(works.front()->failure().peer, 1);
}

TEST(memory_is_kept_until_the_work_that_uses_it_is_done) {
  const auto runtime = make_pretended_runtime({.most_delay_us = 0});
  const DeviceSegment memory = runtime->allocate(0, 64);
  DeviceHeap heap(*runtime, 0, 4096);
  DeviceExecutor executor(*runtime, 0);
  const StreamHandle other = runtime->make_stream(0);
  std::atomic<bool> released{false};
  uint64_t mark = 0;
  {
    const auto kept =
        executor.keep({&released, [](std::atomic<bool>* flag) { flag->store(true); }});
    CHECK_EQ(executor.mark(), uint64_t{0});
    runtime->copy(other, memory.base, memory.base + 32, 32);
    executor.start_after(other);
    executor.copy(memory.base + 32, memory.base, 32);
    mark = executor.mark();
    CHECK_EQ(executor.mark(), mark);  // nothing was enqueued in between
    while (executor.passed() < mark) std::this_thread::yield();
    CHECK(!released);
    executor.copy(memory.base + 32, memory.base, 32);
  }
  while (executor.passed() < mark + 1) std::this_thread::yield();
  CHECK(!released);
  executor.run_due();
  CHECK(released);
  DeviceScratchMemory scratch(heap, executor);
  std::byte* const block = scratch.allocate(512);
  executor.copy(block, block + 256, 256);
  scratch.free(block);
  executor.finish();
  CHECK_EQ(heap.allocate(512), block);
  runtime->destroy(other);
  runtime->free(memory);
}

}  // namespace
}  // namespace fastgpu::test
