// A DeviceExecutor makes one launch of the steps of a sum, whenever their frames arrive, and no
// other work sees a difference.
#include <algorithm>
#include <array>
#include <cstring>
#include <thread>

#include "check.h"
#include "exchange_world.h"
#include "seeds.h"

namespace fastgpu::test {
namespace {

ExchangeCase direct_case(int world, uint64_t count) {
  ExchangeCase exchange;
  exchange.request.collective = Collective::kAllReduce;
  exchange.request.algorithm = Algorithm::kDirect;
  exchange.request.shots = 2;
  exchange.request.world = world;
  exchange.request.count = count;
  exchange.request.element_size = sizeof(float);
  exchange.ranks_per_device = world;
  return exchange;
}

struct Run {
  explicit Run(const ExchangeCase& exchange) : world(exchange) {}

  void start(int rank) {
    works.push_back(
        world.rank(rank).start(world.schedule(rank), draw_buffers(world.exchange(), rank, 0)));
    before = traffic_of(world.runtime());  // with what start() copies for the test
  }
  void finish() {
    const TimeNs deadline = now_ns() + 20'000'000'000;
    while (!std::ranges::all_of(works, [](const auto& work) { return work->done(); })) {
      world.poll();
      CHECK(now_ns() < deadline);
    }
    for (const auto& work : works) CHECK(work->ok());
  }
  Traffic traffic() const {
    const Traffic after = traffic_of(world.runtime());
    return {.copies = after.copies - before.copies,
            .reductions = after.reductions - before.reductions,
            .bytes = after.bytes - before.bytes};
  }

  ExchangeWorld world;
  std::vector<std::shared_ptr<Work>> works;
  Traffic before;
};

// Every shard is read n times and written once for the sum, then read and written n - 1 times.
TEST(a_direct_all_reduce_moves_3n_minus_1_times_its_data) {
  for (const uint64_t seed : seeds()) {
    for (const int world : {2, 4, 8}) {
      for (const uint64_t blocks : {1, 3}) {
        const auto ranks = static_cast<uint64_t>(world);
        const uint64_t count = ranks * 50 * blocks - 1;  // shards differ, blocks differ
        ExchangeCase exchange = direct_case(world, count);
        exchange.request.block_bytes = blocks == 1 ? 0 : ranks * 50 * sizeof(float);
        exchange.seed = seed;
        exchange.capacity = seed % 3;
        Run run(exchange);
        for (int rank = 0; rank < world; ++rank) run.start(rank);
        run.finish();
        CHECK_EQ(run.traffic().reductions, ranks * blocks);
        CHECK_EQ(run.traffic().copies, ranks * (ranks - 1) * blocks);
        CHECK_EQ(run.traffic().bytes, (3 * ranks - 1) * count * sizeof(float));
      }
    }
  }
}

TEST(a_sum_waits_for_the_frames_of_all_peers) {
  Run run(direct_case(3, 300));
  run.start(0);
  run.start(1);
  for (int turn = 0; turn < 1000; ++turn) run.world.poll();
  CHECK(run.traffic() == Traffic{});
  run.start(2);
  run.finish();
  CHECK_EQ(run.traffic().reductions, uint64_t{3});
}

// More sources than one launch has, so sums are cut.
TEST(sums_of_many_ranks_have_the_bits_of_host_memory) {
  for (const uint64_t seed : seeds()) {
    for (const int world : {8, 9, 17}) {
      ExchangeCase exchange = direct_case(world, 257);
      exchange.seed = seed;
      exchange.most_delay_us = 10;
      CHECK_EQ(run_exchange(exchange), "");
      exchange.dtype = DType::kBFloat16;
      exchange.reduce_op = ReduceOp::kAvg;
      exchange.request.element_size = 2;
      exchange.request.collective = Collective::kReduceScatter;
      CHECK_EQ(run_exchange(exchange), "");
    }
  }
}

constexpr std::size_t kNumbers = 4;
constexpr std::size_t kSumBytes = kNumbers * sizeof(float);

// Arrays of device memory: array i has the number 2^i in all places.
struct Arrays {
  float* operator[](std::size_t array) const {
    return reinterpret_cast<float*>(memory.base) + array * kNumbers;
  }
  std::byte* at(std::size_t array) const { return reinterpret_cast<std::byte*>((*this)[array]); }
  float first(std::size_t array) {
    executor.synchronize();
    for (std::size_t i = 1; i < kNumbers; ++i) CHECK_EQ((*this)[array][i], (*this)[array][0]);
    return (*this)[array][0];
  }
  void add(std::size_t target, std::size_t source, bool is_continued,
           ReduceOp reduce_op = ReduceOp::kSum, std::size_t size_bytes = kSumBytes) {
    executor.reduce(at(target), at(source), size_bytes,
                    {.reduce_op = reduce_op, .is_continued = is_continued});
  }
  Traffic traffic() const { return traffic_of(*runtime); }

  Arrays() {
    for (std::size_t array = 0; array < 16; ++array) {
      std::fill_n((*this)[array], kNumbers, static_cast<float>(1 << array));
    }
  }
  ~Arrays() {
    executor.finish();
    runtime->free(memory);
  }

  std::unique_ptr<DeviceRuntime> runtime = make_pretended_runtime({.most_delay_us = 0});
  const DeviceSegment memory = runtime->allocate(0, 16 * kSumBytes);
  DeviceExecutor executor{*runtime, 0};
};

void await(DeviceExecutor& executor, uint64_t mark) {
  const TimeNs deadline = now_ns() + 20'000'000'000;
  while (executor.passed() < mark) {
    CHECK(now_ns() < deadline);
    std::this_thread::yield();
  }
}

TEST(a_sum_is_one_launch_which_the_last_step_makes) {
  Arrays arrays;
  arrays.executor.set_aside(arrays.at(9), arrays.at(0), kSumBytes);
  arrays.executor.start_sum(arrays.at(0), arrays.at(1), kSumBytes);
  arrays.add(0, 2, true);
  arrays.add(0, 9, true);
  CHECK(arrays.traffic() == Traffic{});
  arrays.executor.reduce(arrays.at(0), arrays.at(3), kSumBytes, {.factor = 0.5});
  CHECK(arrays.traffic() == (Traffic{.reductions = 1, .bytes = 5 * kSumBytes}));
  CHECK_EQ(arrays.first(0), (1 + 2 + 4 + 8) * 0.5f);
  CHECK_EQ(arrays.first(9), 512.0f);  // what was set aside was never copied
}

TEST(other_work_comes_after_the_held_sum) {
  const auto held = [](Arrays& arrays) {
    arrays.executor.set_aside(arrays.at(9), arrays.at(0), kSumBytes);
    arrays.executor.start_sum(arrays.at(0), arrays.at(1), kSumBytes);
    arrays.add(0, 2, true);
  };
  {
    Arrays arrays;  // the host
    held(arrays);
    CHECK_EQ(arrays.first(0), 6.0f);
  }
  {
    Arrays arrays;  // a copy that overwrites a source, and one of the sum
    held(arrays);
    arrays.executor.copy(arrays.at(1), arrays.at(5), kSumBytes);
    arrays.executor.copy(arrays.at(6), arrays.at(0), kSumBytes);
    CHECK_EQ(arrays.first(6), 6.0f);
    CHECK_EQ(arrays.first(9), 1.0f);  // what was set aside is there
    CHECK_EQ(arrays.first(1), 32.0f);
    arrays.add(0, 9, false);
    CHECK_EQ(arrays.first(0), 7.0f);
  }
  {
    Arrays arrays;
    held(arrays);
    arrays.executor.scale(arrays.at(2), arrays.at(2), kSumBytes, DType::kFloat32, 4);
    CHECK_EQ(arrays.first(0), 6.0f);
    CHECK_EQ(arrays.first(2), 16.0f);
  }
  {
    Arrays arrays;  // work of another stream
    held(arrays);
    const StreamHandle other = arrays.runtime->make_stream(0);
    arrays.executor.finish_before(other);
    arrays.runtime->copy(other, arrays.at(7), arrays.at(0), kSumBytes);
    arrays.runtime->synchronize(other);
    CHECK_EQ(arrays[7][0], 6.0f);
    arrays.runtime->destroy(other);
  }
}

TEST(a_step_that_does_not_continue_a_sum_begins_another) {
  {
    Arrays arrays;
    arrays.add(0, 1, true);
    arrays.add(2, 3, true);  // another target
    arrays.add(2, 4, true, ReduceOp::kMax);
    arrays.add(2, 5, false, ReduceOp::kMax, kSumBytes / 2);
    CHECK_EQ(arrays.traffic().reductions, uint64_t{4});
    CHECK_EQ(arrays.first(0), 3.0f);
    CHECK_EQ(arrays[2][0], 32.0f);
    CHECK_EQ(arrays[2][kNumbers - 1], 16.0f);
  }
  {
    Arrays arrays;  // the sum so far is a source
    arrays.add(0, 1, true);
    arrays.add(0, 0, false);
    CHECK_EQ(arrays.first(0), 6.0f);
  }
  {
    Arrays arrays;  // the start of a sum in another place than what was set aside
    arrays.executor.set_aside(arrays.at(9), arrays.at(0), kSumBytes);
    arrays.executor.start_sum(arrays.at(1), arrays.at(2), kSumBytes);
    arrays.add(1, 9, false);
    CHECK_EQ(arrays.first(1), 5.0f);
    CHECK_EQ(arrays.traffic().copies, uint64_t{1});
  }
}

TEST(a_launch_has_at_most_eight_sources) {
  Arrays arrays;
  arrays.executor.set_aside(arrays.at(15), arrays.at(0), kSumBytes);
  arrays.executor.start_sum(arrays.at(0), arrays.at(1), kSumBytes);
  float sum = 2;
  for (std::size_t source = 2; source < 14; ++source) {
    arrays.add(0, source, true);
    sum += static_cast<float>(1 << source);
    CHECK_EQ(arrays.traffic().reductions, uint64_t{source >= kMostReduced ? 1u : 0u});
  }
  arrays.add(0, 15, false);  // had to be copied, before the first launch
  CHECK_EQ(arrays.first(0), sum + 1);
  CHECK_EQ(arrays.traffic().reductions, uint64_t{2});
  CHECK_EQ(arrays.traffic().copies, uint64_t{1});
}

TEST(a_later_mark_passes_when_the_sum_has_run) {
  Arrays arrays;
  DeviceExecutor& executor = arrays.executor;
  executor.copy(arrays.at(8), arrays.at(9), kSumBytes);
  const uint64_t first = executor.mark();
  arrays.add(0, 1, true);
  const uint64_t later = executor.mark_later();
  CHECK_EQ(later, first + 1);
  CHECK_EQ(executor.mark_later(), later);
  await(executor, first);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  CHECK_EQ(executor.passed(), first);
  arrays.add(0, 2, false);
  CHECK_EQ(executor.mark_later(), later);
  CHECK_EQ(executor.mark(), later);
  await(executor, later);
  CHECK_EQ(arrays[0][0], 7.0f);

  arrays.add(0, 3, true);
  CHECK_EQ(executor.mark_later(), later + 1);
  CHECK_EQ(executor.mark(), later + 1);  // launches
  await(executor, later + 1);
  CHECK_EQ(arrays[0][0], 15.0f);

  arrays.add(0, 4, true);
  CHECK_EQ(executor.mark_later(), later + 2);
  executor.copy(arrays.at(8), arrays.at(9), kSumBytes);  // launches
  await(executor, later + 2);
  CHECK_EQ(arrays[0][0], 31.0f);

  arrays.add(0, 5, true);
  bool called = false;
  executor.when_passed([&] { called = true; });
  while (!called) executor.run_due();
  CHECK_EQ(arrays[0][0], 63.0f);
}

}  // namespace
}  // namespace fastgpu::test
