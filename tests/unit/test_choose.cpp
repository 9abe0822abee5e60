#include <algorithm>
#include <chrono>
#include <set>
#include <vector>

#include "check.h"
#include "plan/build.h"
#include "plan/choose.h"

using namespace fastgpu;

namespace {

std::vector<int> hosts(int world, int ranks_per_host) {
  std::vector<int> host_of;
  for (int rank = 0; rank < world; ++rank) host_of.push_back(rank / ranks_per_host);
  return host_of;
}

ChooseRequest all_reduce(uint64_t bytes, int world, int ranks_per_host) {
  return {.bytes = bytes, .placement = placement_of(world, hosts(world, ranks_per_host))};
}

}  // namespace

TEST(latency_matters_when_small_and_bytes_when_large) {
  const Constants constants;
  CHECK(choose(all_reduce(8, 4, 4), constants).algorithm == Algorithm::kDirect);
  const Algorithm large = choose(all_reduce(64 << 20, 4, 4), constants).algorithm;
  CHECK(large == Algorithm::kRing || large == Algorithm::kHalving);
  CHECK_EQ(choose(all_reduce(8, 4, 4), constants).lanes, 1);
}

// The least number of hops there is: docs/schedules.md says so of these sizes.
TEST(small_ones_take_one_shot) {
  for (int world = 2; world <= 8; ++world) {
    for (uint64_t bytes = 8; bytes <= 1024; bytes *= 2) {
      const Choice choice = choose(all_reduce(bytes, world, world), Constants{});
      CHECK(choice.algorithm == Algorithm::kDirect);
      CHECK_EQ(choice.shots, 1);
      CHECK_EQ(choice.lanes, 1);
    }
  }
  ChooseRequest large = all_reduce(16 << 20, 4, 4);
  large.forced = Algorithm::kDirect;
  CHECK_EQ(choose(large, Constants{}).shots, 2);
  large.forced = Algorithm::kRing;
  CHECK_EQ(choose(large, Constants{}).shots, 0);
}

// With a core for each rank everyone talks to everyone at once. With two cores for all, what counts
// is how many frames there are in all, and a tree has the fewest.
TEST(few_cores_favour_few_frames) {
  Constants constants;
  constants.between_hosts = {.beta_us_per_byte = 1e-4, .overhead_us = 3, .cpu_us_per_byte = 8e-5};
  ChooseRequest request = all_reduce(512, 8, 1);
  request.placement.most_per_machine = 8;
  constants.cores_per_host = 8;
  CHECK(choose(request, constants).algorithm != Algorithm::kTree);
  constants.cores_per_host = 2;
  CHECK(choose(request, constants).algorithm == Algorithm::kTree);
  request.bytes = 64 << 20;
  CHECK(choose(request, constants).algorithm != Algorithm::kTree);
  CHECK_EQ(choose(request, constants).lanes, 1);
}

// Their prices are within a hundredth of each other.
TEST(crowded_ranks_take_few_hops) {
  const auto chosen = [](Collective collective, int world, int cores, int bytes) {
    Constants constants;
    constants.same_host = {0.35, 3.2e-5, 0.1, 3e-5};
    constants.cores_per_host = cores;
    ChooseRequest request = all_reduce(static_cast<uint64_t>(bytes), world, world);
    request.collective = collective;
    request.placement.most_per_machine = world;
    return choose(request, constants).algorithm;
  };
  CHECK(chosen(Collective::kAllReduce, 4, 2, 1 << 20) == Algorithm::kHalving);
  CHECK(chosen(Collective::kAllReduce, 4, 2, 4 << 20) == Algorithm::kHalving);
  CHECK(chosen(Collective::kAllReduce, 4, 4, 1 << 20) == Algorithm::kRing);
  CHECK(chosen(Collective::kAllReduce, 6, 2, 1 << 20) == Algorithm::kDirect);
  CHECK(chosen(Collective::kAllReduce, 6, 6, 1 << 20) == Algorithm::kRing);
  CHECK(chosen(Collective::kAllReduce, 8, 2, 4 << 20) == Algorithm::kDirect);
  CHECK(chosen(Collective::kAllGather, 4, 2, 1 << 20) == Algorithm::kDirect);
  CHECK(chosen(Collective::kBroadcast, 4, 2, 1 << 20) == Algorithm::kDirect);
  CHECK(chosen(Collective::kBroadcast, 4, 2, 64 << 20) == Algorithm::kDirect);
}

// One copy for each rank, where channels would take two: only inside a host, and of more than two.
TEST(large_broadcasts_inside_a_host_are_laid_out) {
  const auto shots = [](int world, int ranks_per_host, int cores, uint64_t bytes) {
    Constants constants;
    constants.cores_per_host = cores;
    ChooseRequest request = all_reduce(bytes, world, ranks_per_host);
    request.collective = Collective::kBroadcast;
    request.placement.most_per_machine = ranks_per_host;
    request.forced = Algorithm::kDirect;
    return choose(request, constants).shots;
  };
  for (const int cores : {2, 8}) {
    CHECK_EQ(shots(4, 4, cores, 1 << 20), 2);
    CHECK_EQ(shots(8, 8, cores, 64 << 20), 2);
    CHECK_EQ(shots(2, 2, cores, 1 << 20), 0);
    CHECK_EQ(shots(4, 2, cores, 1 << 20), 0);
    CHECK_EQ(shots(4, 4, cores, 4096), 0);
  }
}

// The ways of one algorithm are compared by price alone.
TEST(crowded_ranks_take_one_shot_while_it_is_cheaper) {
  Constants constants;
  constants.cores_per_host = 2;
  ChooseRequest request = all_reduce(64, 8, 8);
  request.placement.most_per_machine = 8;
  request.forced = Algorithm::kDirect;
  const auto price = [&](int shots) {
    return predict_us({.algorithm = Algorithm::kDirect,
                       .bytes = request.bytes,
                       .shots = shots,
                       .placement = request.placement},
                      constants);
  };
  for (; request.bytes <= 64 << 10; request.bytes *= 2) {
    const int shots = choose(request, constants).shots;
    if (price(2) > price(1) && request.bytes * 7 <= 32 << 10) CHECK_EQ(shots, 1);
    if (price(2) < 0.9 * price(1)) CHECK_EQ(shots, 2);
  }
}

TEST(more_bytes_never_take_less_time_nor_go_back_to_one_shot) {
  for (const int cores : {2, 8}) {
    for (const int ranks_per_host : {1, 8}) {
      Constants constants;
      constants.cores_per_host = cores;
      double last_us = 0;
      bool left_one_shot = false;
      for (uint64_t bytes = 8; bytes <= 64 << 20; bytes *= 2) {
        const ChooseRequest request = all_reduce(bytes, 8, ranks_per_host);
        const Choice choice = choose(request, constants);
        const double us = predict_us({.algorithm = choice.algorithm,
                                      .bytes = bytes,
                                      .lanes = choice.lanes,
                                      .shots = choice.shots,
                                      .chunk_bytes = choice.chunk_bytes,
                                      .placement = request.placement},
                                     constants);
        CHECK(us >= 0.95 * last_us);
        last_us = us;
        CHECK(choice.shots != 1 || !left_one_shot);
        left_one_shot = choice.shots != 1;
      }
      CHECK(left_one_shot);
    }
  }
}

// On a host, and where the wire is memory; a hop of a real network would be waited for too often.
TEST(blocks_pay_where_hops_are_short) {
  Constants constants;
  CHECK(choose(all_reduce(64 << 20, 4, 4), constants).block_bytes > 0);
  CHECK_EQ(choose(all_reduce(64 << 20, 4, 1), constants).block_bytes, uint64_t{0});
  constants.between_hosts = {.beta_us_per_byte = 1e-4, .overhead_us = 3, .cpu_us_per_byte = 8e-5};
  CHECK(choose(all_reduce(64 << 20, 4, 1), constants).block_bytes > 0);
}

// The dearer a hop is beside a byte, the longer everything in one of them pays.
TEST(shots_follow_from_prices) {
  const auto least_of_two_shots = [](const Constants& constants) {
    ChooseRequest request = all_reduce(8, 4, 4);
    request.forced = Algorithm::kDirect;
    while (choose(request, constants).shots == 1) request.bytes *= 2;
    return request.bytes;
  };
  Constants slow_hops;
  slow_hops.same_host.alpha_us *= 10;
  slow_hops.same_host.overhead_us *= 10;
  CHECK(least_of_two_shots(slow_hops) >= 4 * least_of_two_shots(Constants{}));
}

TEST(many_streams_fill_a_quick_network) {
  Constants constants;
  constants.nic_us_per_byte = 4e-5;
  CHECK(choose(all_reduce(64 << 20, 24, 8), constants).algorithm == Algorithm::kHierarchical);
}

// Of two whose prices are within what prices are good for, the first one is taken.
TEST(the_choice_has_almost_the_least_price) {
  const Constants constants;
  for (const int world : {2, 3, 8, 48}) {
    for (const uint64_t bytes : {8u, 4096u, 1u << 20, 1u << 28}) {
      const ChooseRequest request = all_reduce(bytes, world, 8);
      PriceRequest price{.bytes = bytes, .placement = request.placement};
      const Choice choice = choose(request, constants);
      price.algorithm = choice.algorithm;
      price.lanes = choice.lanes;
      price.chunk_bytes = choice.chunk_bytes;
      price.shots = choice.shots;
      const double chosen = predict_us(price, constants);
      for (const Algorithm other : algorithms_of(Collective::kAllReduce)) {
        if (other == Algorithm::kHierarchical && world <= 8) continue;
        price.algorithm = other;
        price.lanes = 1;
        price.shots = 0;
        price.chunk_bytes = tree_chunk_bytes(price, constants);
        CHECK(0.95 * chosen <= predict_us(price, constants));
      }
    }
  }
}

TEST(hierarchical_needs_hosts_with_several_ranks) {
  Constants cheap_inside;
  cheap_inside.between_hosts = {1000, 1, 1000, 1};
  for (const uint64_t bytes : {8u, 1u << 20, 1u << 26}) {
    for (const int ranks_per_host : {1, 16}) {
      const Choice choice = choose(all_reduce(bytes, 16, ranks_per_host), cheap_inside);
      CHECK(choice.algorithm != Algorithm::kHierarchical);
    }
  }
}

TEST(an_algorithm_may_be_forced_where_there_is_one) {
  const Constants constants;
  ChooseRequest request = all_reduce(8, 4, 4);
  request.forced = Algorithm::kTree;
  CHECK(choose(request, constants).algorithm == Algorithm::kTree);
  request.collective = Collective::kAllToAll;
  CHECK(choose(request, constants).algorithm == algorithms_of(Collective::kAllToAll).front());
  request.collective = Collective::kAllGather;
  CHECK(choose(request, constants).algorithm == algorithms_of(Collective::kAllGather).front());
}

TEST(determinism_means_rank_order) {
  ChooseRequest request = all_reduce(64 << 20, 4, 4);
  request.deterministic = true;
  request.forced = Algorithm::kRing;
  CHECK(choose(request, {}).algorithm == Algorithm::kDirect);
}

TEST(lanes_may_be_given) {
  ChooseRequest request = all_reduce(8, 4, 4);
  request.lanes = 7;
  CHECK_EQ(choose(request, {}).lanes, 7);
  request.lanes = 0;
  CHECK_EQ(choose(request, {}).lanes, 1);
  // A stream that is slower than its interface wants company.
  Constants slow_streams;
  slow_streams.between_hosts.beta_us_per_byte = 10 * slow_streams.nic_us_per_byte;
  CHECK(choose(all_reduce(64 << 20, 2, 1), slow_streams).lanes > 1);
}

TEST(engine_threads_are_worth_lanes_where_cores_are_free) {
  Constants constants;
  ChooseRequest request = all_reduce(64 << 20, 4, 4);
  request.placement.engine_threads = 8;
  constants.cores_per_host = 64;
  const Choice many = choose(request, constants);
  CHECK_EQ(many.lanes, 8);
  PriceRequest price{.bytes = request.bytes, .lanes = 8, .placement = request.placement};
  const double shared = predict_us(price, constants);
  price.placement.engine_threads = 1;
  CHECK(shared < predict_us(price, constants) / 4);
  request.bytes = 8;
  CHECK_EQ(choose(request, constants).lanes, 1);
  // A core a rank, and fewer.
  for (const int cores : {4, 2}) {
    constants.cores_per_host = cores;
    request.bytes = 64 << 20;
    request.placement.engine_threads = 8;
    const Choice oversubscribed = choose(request, constants);
    request.placement.engine_threads = 1;
    CHECK(oversubscribed == choose(request, constants));
  }
}

TEST(every_collective_has_a_choice_that_builds) {
  for (int collective = 0; collective < kCollectiveCount; ++collective) {
    std::set<Algorithm> seen;
    for (const int world : {1, 2, 5, 12}) {
      for (const uint64_t bytes : {0u, 4u, 65536u, 1u << 24}) {
        const auto kind = static_cast<Collective>(collective);
        ChooseRequest request = all_reduce(bytes, world, 4);
        request.collective = kind;
        const Choice choice = choose(request, {});
        seen.insert(choice.algorithm);
        PlanRequest plan;
        plan.collective = kind;
        plan.algorithm = choice.algorithm;
        plan.world = world;
        plan.count = bytes / 4;
        plan.element_size = 4;
        plan.lanes = choice.lanes;
        plan.chunk_bytes = choice.chunk_bytes;
        CHECK_EQ(static_cast<int>(build(plan).lanes.size()), choice.lanes);
      }
    }
    CHECK(!seen.contains(Algorithm::kAuto));
  }
}

TEST(choosing_is_quick) {
  const ChooseRequest request = all_reduce(64 << 20, 4096, 8);
  const Constants constants;
  constexpr int kRounds = 2000;
  double best_us = 1e9;  // of several, as the machine may be busy
  for (int attempt = 0; attempt < 5; ++attempt) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kRounds; ++i) CHECK(choose(request, constants).lanes > 0);
    const std::chrono::duration<double, std::micro> spent =
        std::chrono::steady_clock::now() - start;
    best_us = std::min(best_us, spent.count() / kRounds);
  }
  CHECK(best_us < 100);  // under sanitizers; a release build takes about one
}
