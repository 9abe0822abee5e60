// Properties that choices have on any machine.
#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "check.h"
#include "plan/build.h"
#include "plan/cost/choose.h"

using namespace fastgpu;

namespace {

constexpr uint64_t kMostBytes = 64 << 20;

Placement placement(int world, int ranks_per_host) {
  std::vector<int> host_of;
  for (int rank = 0; rank < world; ++rank) host_of.push_back(rank / ranks_per_host);
  return placement_of(world, host_of);
}

ChooseRequest all_reduce(uint64_t bytes, int world, int ranks_per_host) {
  return {.bytes = bytes, .placement = placement(world, ranks_per_host)};
}

// Ranks of one machine that talk by shared memory, or by TCP as if each were a host.
ChooseRequest on_one_machine(Collective collective, uint64_t bytes, int world, bool tcp) {
  ChooseRequest request{
      .collective = collective, .bytes = bytes, .placement = placement(world, tcp ? 1 : world)};
  request.placement.most_per_machine = world;
  return request;
}

PriceRequest priced(const ChooseRequest& request, const Choice& choice) {
  return {.collective = request.collective,
          .algorithm = choice.algorithm,
          .bytes = request.bytes,
          .lanes = choice.lanes,
          .shots = choice.shots,
          .chunk_bytes = choice.chunk_bytes,
          .placement = request.placement};
}

// Machines with a core for each rank and with few, and hops of three lengths.
std::vector<Constants> machines() {
  std::vector<Constants> found;
  for (const int cores : {0, 2}) {
    for (const double hops : {0.5, 1.0, 3.0}) {
      Constants constants;
      constants.same_host = {0.2 * hops, 3e-5, 0.07 * hops, 2.5e-5};
      constants.between_hosts = {10 * hops, 1e-4, 2.7 * hops, 8e-5};
      constants.nic_us_per_byte = 1e-4;
      constants.copy_us_per_byte = 2e-5;
      constants.reduce_us_per_byte = 1e-6;
      constants.cores_per_host = cores;
      found.push_back(constants);
    }
  }
  return found;
}

}  // namespace

TEST(small_calls_take_one_shot_where_cores_suffice) {
  for (int world = 2; world <= 8; ++world) {
    for (uint64_t bytes = 8; bytes <= 1024; bytes *= 2) {
      const Choice choice = choose(all_reduce(bytes, world, world), Constants{});
      CHECK(choice.algorithm == Algorithm::kDirect);
      CHECK_EQ(choice.shots, 1);
      CHECK_EQ(choice.lanes, 1);
    }
  }
}

// One-shot sends n - 1 times the call's bytes, where 2(n - 1)/n would do.
TEST(large_calls_send_no_more_bytes_than_they_must) {
  for (const Constants& constants : machines()) {
    for (const int world : {2, 3, 4, 8}) {
      for (const bool tcp : {false, true}) {
        const ChooseRequest request =
            on_one_machine(Collective::kAllReduce, kMostBytes, world, tcp);
        const Choice choice = choose(request, constants);
        CHECK(choice.shots != 1);
      }
    }
  }
}

TEST(more_bytes_never_take_less_time_nor_go_back_to_one_shot) {
  for (const Constants& constants : machines()) {
    for (const int ranks_per_host : {1, 8}) {
      CostModel model(constants);
      double last_us = 0;
      bool left_one_shot = false;
      for (uint64_t bytes = 8; bytes <= kMostBytes; bytes *= 2) {
        const ChooseRequest request = all_reduce(bytes, 8, ranks_per_host);
        const Choice choice = choose(request, model);
        const double us = model.price(priced(request, choice)).us;
        CHECK(us >= 0.95 * last_us);
        last_us = us;
        CHECK(choice.shots != 1 || !left_one_shot);
        left_one_shot = choice.shots != 1;
      }
      CHECK(left_one_shot);
    }
  }
}

// A simpler algorithm may be dearer by up to 5 %.
TEST(the_choice_has_almost_the_least_price) {
  for (const Constants& constants : machines()) {
    CostModel model(constants);
    for (const int world : {2, 3, 8}) {
      for (const uint64_t bytes : {uint64_t{8}, uint64_t{4096}, uint64_t{1} << 20, kMostBytes}) {
        ChooseRequest request = all_reduce(bytes, world, 8);
        request.placement.most_per_machine = world;
        const double chosen = model.price(priced(request, choose(request, model))).us;
        for (const Algorithm other : algorithms_of(Collective::kAllReduce)) {
          if (other == Algorithm::kHierarchical) continue;
          request.forced = other;
          CHECK(0.95 * chosen <= model.price(priced(request, choose(request, model))).us);
        }
      }
    }
  }
}

TEST(oversubscribed_ranks_take_one_lane) {
  for (const Constants& constants : machines()) {
    for (int collective = 0; collective < kCollectiveCount; ++collective) {
      const auto kind = static_cast<Collective>(collective);
      const ChooseRequest request = on_one_machine(kind, kMostBytes, 5, true);
      if (oversubscribed(request.placement, constants)) {
        CHECK_EQ(choose(request, constants).lanes, 1);
      }
    }
  }
}

// On a host: no more rounds than the same call takes with a core for every rank.
TEST(oversubscribed_ranks_take_no_more_rounds) {
  for (const Constants& constants : machines()) {
    if (constants.cores_per_host == 0) continue;
    Constants enough = constants;
    enough.cores_per_host = 0;
    CostModel few_cores(constants);
    CostModel many_cores(enough);
    for (const Collective collective :
         {Collective::kAllReduce, Collective::kReduceScatter, Collective::kAllGather,
          Collective::kBroadcast, Collective::kReduce}) {
      for (const int world : {3, 4, 5, 8}) {
        for (const uint64_t bytes : {uint64_t{1} << 10, uint64_t{1} << 18, uint64_t{4} << 20}) {
          const ChooseRequest request = on_one_machine(collective, bytes, world, false);
          const auto rounds = [&](CostModel& model) {
            return model.price(priced(request, choose(request, model))).rounds;
          };
          CHECK(rounds(few_cores) <= rounds(many_cores));
        }
      }
    }
  }
}

TEST(oversubscribed_is_one_rule) {
  CHECK(!oversubscribed(8, 0));  // unknown: enough
  CHECK(!oversubscribed(2, 2));
  CHECK(oversubscribed(3, 2));
  Constants constants;
  constants.cores_per_host = 4;
  Placement placement = placement_of(8, {});
  CHECK(oversubscribed(placement, constants));
  placement.most_per_machine = 4;  // two machines
  CHECK(!oversubscribed(placement, constants));
}

// With a core for each rank everyone talks to everyone at once. With two cores for all, what counts
// is how many frames there are in all, and a tree has the fewest.
TEST(few_cores_favour_few_frames) {
  Constants constants;
  constants.between_hosts = {.beta_us_per_byte = 1e-4, .overhead_us = 3, .cpu_us_per_byte = 8e-5};
  ChooseRequest request = on_one_machine(Collective::kAllReduce, 512, 8, true);
  constants.cores_per_host = 8;
  CHECK(choose(request, constants).algorithm != Algorithm::kTree);
  constants.cores_per_host = 2;
  CHECK(choose(request, constants).algorithm == Algorithm::kTree);
  request.bytes = kMostBytes;
  CHECK(choose(request, constants).algorithm != Algorithm::kTree);
}

// One copy for each rank, where channels would take two: only inside a host, and of more than two.
TEST(large_broadcasts_inside_a_host_are_staged) {
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
    CHECK_EQ(shots(8, 8, cores, kMostBytes), 2);
    CHECK_EQ(shots(2, 2, cores, 1 << 20), 0);
    CHECK_EQ(shots(4, 2, cores, 1 << 20), 0);
    CHECK_EQ(shots(4, 4, cores, 4096), 0);
  }
}

// On a host, and where the link between hosts is memory; over a real network a hop would be waited
// for too often.
TEST(blocks_pay_where_hops_are_short) {
  Constants constants;
  CHECK(choose(all_reduce(kMostBytes, 4, 4), constants).block_bytes > 0);
  CHECK_EQ(choose(all_reduce(kMostBytes, 4, 1), constants).block_bytes, uint64_t{0});
  constants.between_hosts = {.beta_us_per_byte = 1e-4, .overhead_us = 3, .cpu_us_per_byte = 8e-5};
  CHECK(choose(all_reduce(kMostBytes, 4, 1), constants).block_bytes > 0);
  constants.is_gpu = true;
  CHECK_EQ(choose(all_reduce(kMostBytes, 4, 4), constants).block_bytes, uint64_t{0});
}

// A GPU reads its own part of a sum once, with the others. With dear copies that decides.
TEST(a_gpu_does_not_pay_for_copies_that_it_does_not_make) {
  Constants constants;
  constants.copy_us_per_byte = 10 * constants.same_host.beta_us_per_byte;
  const PriceRequest direct{.algorithm = Algorithm::kDirect,
                            .bytes = 16 << 20,
                            .shots = 2,
                            .placement = placement_of(4, {})};
  PriceRequest ring = direct;
  ring.algorithm = Algorithm::kRing;
  const double on_cpu = predict_us(direct, constants);
  const double ring_on_cpu = predict_us(ring, constants);
  constants.is_gpu = true;
  const double share = static_cast<double>(direct.bytes) / 4;
  CHECK(predict_us(direct, constants) < on_cpu - share * constants.copy_us_per_byte);
  CHECK_EQ(predict_us(ring, constants), ring_on_cpu);
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
  CHECK(choose(all_reduce(kMostBytes, 24, 8), constants).algorithm == Algorithm::kHierarchical);
}

TEST(hierarchical_needs_hosts_with_several_ranks) {
  Constants cheap_inside;
  cheap_inside.between_hosts = {1000, 1, 1000, 1};
  for (const uint64_t bytes : {uint64_t{8}, uint64_t{1} << 20, kMostBytes}) {
    for (const int ranks_per_host : {1, 16}) {
      const Choice choice = choose(all_reduce(bytes, 16, ranks_per_host), cheap_inside);
      CHECK(choice.algorithm != Algorithm::kHierarchical);
    }
  }
}

// Between hosts the hierarchical form sends an m-th of the bytes; what it adds is inside them.
TEST(an_encoded_all_reduce_follows_the_hosts_where_that_is_cheaper) {
  Constants slow_network;
  slow_network.nic_us_per_byte = slow_network.between_hosts.beta_us_per_byte = 8e-3;  // 1 Gbit/s
  const auto chosen = [&](int ranks_per_host, const Constants& constants) {
    ChooseRequest request = all_reduce(25 << 20, 8, ranks_per_host);
    request.codec = Codec::kInt8;
    return choose(request, constants).algorithm;
  };
  CHECK(chosen(4, slow_network) == Algorithm::kHierarchical);
  CHECK(chosen(2, slow_network) == Algorithm::kHierarchical);
  CHECK(chosen(1, slow_network) == Algorithm::kDirect);
  CHECK(chosen(8, slow_network) == Algorithm::kDirect);
  Constants slow_inside = slow_network;
  slow_inside.same_host = {1000, 0.1, 1000, 0.1};
  CHECK(chosen(4, slow_inside) == Algorithm::kDirect);
}

TEST(an_encoded_all_reduce_can_be_forced_into_either_form) {
  ChooseRequest request = all_reduce(1 << 20, 8, 4);
  request.codec = Codec::kInt8;
  for (const Algorithm algorithm : {Algorithm::kDirect, Algorithm::kHierarchical}) {
    request.forced = algorithm;
    CHECK(choose(request, Constants{}).algorithm == algorithm);
  }
  request.deterministic = true;
  CHECK(choose(request, Constants{}).algorithm == Algorithm::kDirect);
  request = all_reduce(1 << 20, 8, 8);
  request.codec = Codec::kInt8;
  request.forced = Algorithm::kHierarchical;
  CHECK(choose(request, Constants{}).algorithm == Algorithm::kDirect);
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
  ChooseRequest request = all_reduce(kMostBytes, 4, 4);
  request.deterministic = true;
  request.forced = Algorithm::kRing;
  CHECK(choose(request, Constants{}).algorithm == Algorithm::kDirect);
}

TEST(lanes_may_be_given) {
  ChooseRequest request = all_reduce(8, 4, 4);
  request.lanes = 7;
  CHECK_EQ(choose(request, Constants{}).lanes, 7);
  request.lanes = 0;
  CHECK_EQ(choose(request, Constants{}).lanes, 1);
  // A stream that is slower than its interface wants company.
  Constants slow_streams;
  slow_streams.between_hosts.beta_us_per_byte = 10 * slow_streams.nic_us_per_byte;
  const int lanes = choose(all_reduce(kMostBytes, 2, 1), slow_streams).lanes;
  CHECK(lanes > 1 && lanes <= kMaxChosenLanes);
}

// Every rank chooses for itself, from the text of the constants, and whatever it chose before.
TEST(choices_depend_on_nothing_but_their_arguments) {
  for (const Constants& constants : machines()) {
    CostModel used(constants);
    for (uint64_t bytes = 8; bytes <= kMostBytes; bytes *= 8) {
      for (int collective = 0; collective < kCollectiveCount; ++collective) {
        ChooseRequest request = all_reduce(bytes, 12, 4);
        request.collective = static_cast<Collective>(collective);
        const Choice fresh = choose(request, constants_from_text(to_text(constants)));
        CHECK(choose(request, used) == fresh);
      }
    }
  }
}

TEST(every_collective_has_a_choice_that_builds) {
  for (int collective = 0; collective < kCollectiveCount; ++collective) {
    const auto kind = static_cast<Collective>(collective);
    for (const int world : {1, 2, 5, 12}) {
      for (const uint64_t bytes : {uint64_t{0}, uint64_t{4}, uint64_t{65536}, uint64_t{1} << 24}) {
        ChooseRequest request = all_reduce(bytes, world, 4);
        request.collective = kind;
        const Choice choice = choose(request, Constants{});
        CHECK(choice.algorithm != Algorithm::kAuto);
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
  }
}
