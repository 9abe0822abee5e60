// The simulator against prices, and what only it can show.
#include <algorithm>
#include <cmath>
#include <ctime>
#include <string>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "plan/cost/cost_model.h"
#include "plan/simulate/simulate.h"
#include "schedule_cases.h"

using namespace fastgpu;

namespace {

constexpr uint64_t kMiB = 1 << 20;

// Hockney's machine: only links cost anything.
Machine links_only(double alpha, double beta) {
  Machine machine;
  machine.constants.same_host = {.alpha_us = alpha, .beta_us_per_byte = beta};
  machine.constants.between_hosts = machine.constants.same_host;
  machine.constants.nic_us_per_byte = 0;
  machine.constants.copy_us_per_byte = machine.constants.reduce_us_per_byte = 0;
  return machine;
}

Machine on_hosts(int world, int ranks_per_host, Machine machine = {}) {
  for (int rank = 0; rank < world; ++rank) machine.host_of.push_back(rank / ranks_per_host);
  return machine;
}

PlanRequest all_reduce(Algorithm algorithm, int world, uint64_t bytes, int lanes = 1) {
  PlanRequest request;
  request.algorithm = algorithm;
  request.world = world;
  request.count = bytes / 4;
  request.element_size = 4;
  request.lanes = lanes;
  return request;
}

double predicted(const PlanRequest& request, const Machine& machine) {
  return predict_us({.collective = request.collective,
                     .algorithm = request.algorithm,
                     .bytes = request.count * request.element_size,
                     .lanes = request.lanes,
                     .shots = request.shots,
                     .chunk_bytes = request.chunk_bytes,
                     .placement = placement_of(request.world, machine.host_of)},
                    machine.constants);
}

bool within(double value, double expected, double relative) {
  return std::abs(value - expected) <= relative * expected;
}

// Says what differed: a bare CHECK would show neither number.
void check_close(const PlanRequest& request, const Machine& machine, double tolerance) {
  const double simulated = simulate(request, machine).end_us();
  const double price = predicted(request, machine);
  if (within(simulated, price, tolerance)) return;
  test::fail(__FILE__, __LINE__,
             std::string(name_of(request.collective)) + " " +
                 std::string(name_of(request.algorithm)) + ", " + std::to_string(request.world) +
                 " ranks, " + std::to_string(request.count * request.element_size) + " bytes, " +
                 std::to_string(request.lanes) + " lanes: " + std::to_string(simulated) +
                 " us simulated, " + std::to_string(price) + " us by price");
}

Schedule schedule_of(const Step& step) {
  Schedule schedule;
  schedule.lanes = {{step}};
  return schedule;
}

Step send_to(int peer) {
  Step step;
  step.verb = Verb::kSend;
  step.peer = peer;
  step.source.size_bytes = 4;
  return step;
}

Step recv_from(int peer) {
  Step step;
  step.verb = Verb::kRecv;
  step.peer = peer;
  step.target.size_bytes = 4;
  return step;
}

}  // namespace

TEST(links_alone_give_the_books_times) {
  const Machine machine = links_only(7, 0.01);
  for (const int world : {2, 4, 16, 128}) {
    const double latency_steps = std::log2(world);
    const double bytes = 4096.0 * world;
    const auto time = [&](Algorithm algorithm) {
      return simulate(all_reduce(algorithm, world, static_cast<uint64_t>(bytes)), machine).end_us();
    };
    const double moved = 2.0 * (world - 1) / world * bytes * 0.01;
    CHECK(within(time(Algorithm::kRing), 2.0 * (world - 1) * 7 + moved, 1e-6));
    CHECK(within(time(Algorithm::kHalving), 2 * latency_steps * 7 + moved, 1e-6));
  }
}

// Shards that no channel holds wait until their receiver is there; prices know no such waiting.
TEST(prices_hold_on_one_host) {
  for (const int world : {2, 3, 8, 24, 64}) {
    for (const uint64_t bytes : {uint64_t{64} << 10, kMiB, 64 * kMiB}) {
      for (const int lanes : {1, 2}) {
        check_close(all_reduce(Algorithm::kRing, world, bytes, lanes), {}, 0.20);
        check_close(all_reduce(Algorithm::kHalving, world, bytes, lanes), {}, 0.05);
        check_close(all_reduce(Algorithm::kDirect, world, bytes, lanes), {},
                    bytes > kMiB ? 0.45 : 0.05);
        check_close(all_reduce(Algorithm::kTree, world, bytes, lanes), {}, 0.10);
      }
    }
  }
}

// Each pays for a copy of its own shard on a processor, and on a GPU for none.
TEST(prices_of_gpus_hold) {
  Machine machine;
  machine.constants.copy_us_per_byte = 10 * machine.constants.same_host.beta_us_per_byte;
  PlanRequest request = all_reduce(Algorithm::kDirect, 8, kMiB);
  request.shots = 2;
  const double on_processors = simulate(request, machine).end_us();
  machine.constants.is_gpu = true;
  const double copy_us = static_cast<double>(kMiB) / 8 * machine.constants.copy_us_per_byte;
  CHECK(simulate(request, machine).end_us() < on_processors - copy_us);
  check_close(request, machine, 0.05);
}

TEST(prices_hold_over_hosts) {
  for (const int world : {16, 64}) {
    const Machine machine = on_hosts(world, 8);
    for (const uint64_t bytes : {uint64_t{64} << 10, kMiB, 64 * kMiB}) {
      check_close(all_reduce(Algorithm::kRing, world, bytes), machine, 0.15);
      check_close(all_reduce(Algorithm::kHalving, world, bytes), machine, 0.15);
      check_close(all_reduce(Algorithm::kHierarchical, world, bytes), machine, 0.30);
      check_close(all_reduce(Algorithm::kTree, world, bytes), machine, 0.20);
    }
  }
}

// Most bytes of `direct` leave the host, through an interface that its ranks share.
TEST(prices_of_direct_hold_over_hosts) {
  for (const int world : {8, 16, 24, 64}) {
    for (const int ranks_per_host : {1, 4, 8}) {
      const Machine machine = on_hosts(world, ranks_per_host);
      for (const uint64_t bytes : {uint64_t{1} << 10, uint64_t{64} << 10, kMiB, 64 * kMiB}) {
        PlanRequest request = all_reduce(Algorithm::kDirect, world, bytes);
        request.shots = 2;
        check_close(request, machine, bytes > kMiB ? 0.65 : 0.25);
        request.shots = 1;
        if (bytes <= kMiB) check_close(request, machine, 0.10);
      }
    }
  }
}

// All small parts leave before the first receive is waited for, in worlds of any size.
TEST(a_small_all_to_all_waits_once) {
  for (const int world : {3, 9, 16, 64}) {
    for (const int ranks_per_host : {world, 4}) {
      PlanRequest request = all_reduce(Algorithm::kDirect, world, 64);
      request.collective = Collective::kAllToAll;
      const Machine machine = on_hosts(world, ranks_per_host);
      check_close(request, machine, 0.05);
      const LinkCosts& slowest =
          ranks_per_host < world ? machine.constants.between_hosts : machine.constants.same_host;
      const double frames =
          2.0 * (world - 1) * (slowest.overhead_us + 64 * slowest.cpu_us_per_byte);
      CHECK(simulate(request, machine).end_us() < 1.1 * (frames + slowest.alpha_us));
    }
  }
}

// 4096 ranks on 512 and on 64 hosts. A host's interface carries 2 (H - 1)/H * S in all.
TEST(thousands_of_ranks_take_seconds) {
  const int world = test::kStride == 1 ? 4096 : 512;
  const std::clock_t start = std::clock();  // processor time: waiting for a core does not count
  for (const int ranks_per_host : {8, 64}) {
    const Machine machine = on_hosts(world, ranks_per_host);
    const double hosts = static_cast<double>(world) / ranks_per_host;
    const PlanRequest request = all_reduce(Algorithm::kHierarchical, world, 64 * kMiB);
    const double crossing = 2 * (hosts - 1) / hosts * 64 * kMiB * machine.constants.nic_us_per_byte;
    const Simulated played = simulate(request, machine);
    CHECK(within(played.end_us(), predicted(request, machine), 0.30));
    CHECK(played.end_us() > crossing);
    CHECK(played.end_us() < 2 * crossing);
    for (const HostUse& host : played.hosts) CHECK(within(host.sending_us, crossing, 1e-6));
  }
  const double spent_s = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  CHECK(spent_s < 20);  // 5 s were the most that any machine took
}

TEST(prices_hold_in_large_worlds) {
  check_close(all_reduce(Algorithm::kRing, 512, 64 * kMiB), {}, 0.05);
  check_close(all_reduce(Algorithm::kHalving, 4096, 64 * kMiB), {}, 0.05);
  check_close(all_reduce(Algorithm::kTree, 2048, 16 * kMiB), {}, 0.10);
  check_close(all_reduce(Algorithm::kHierarchical, 512, 64 * kMiB), on_hosts(512, 8), 0.35);
}

TEST(prices_hold_for_the_other_collectives) {
  for (int collective = 0; collective < kCollectiveCount; ++collective) {
    const auto kind = static_cast<Collective>(collective);
    if (kind == Collective::kAllReduce) continue;
    for (const Algorithm algorithm : algorithms_of(kind)) {
      for (const int world : {4, 16, 64}) {
        PlanRequest request = all_reduce(algorithm, world, 256 << 10);
        request.collective = kind;
        check_close(request, {}, 0.05);
        check_close(request, on_hosts(world, 4), 0.20);
      }
    }
  }
}

TEST(lanes_add_up_where_a_stream_is_slow) {
  const Machine machine = links_only(1, 0.001);
  const double one = simulate(all_reduce(Algorithm::kRing, 4, kMiB, 1), machine).end_us();
  const double two = simulate(all_reduce(Algorithm::kRing, 4, kMiB, 2), machine).end_us();
  CHECK(within(two, one / 2, 0.01));
}

TEST(lanes_hide_latency_behind_work) {
  Machine machine;
  machine.constants.same_host = {100, 0, 0, 5e-4};  // twice the work of sending a shard
  const double one = simulate(all_reduce(Algorithm::kRing, 4, 400000, 1), machine).end_us();
  const double four = simulate(all_reduce(Algorithm::kRing, 4, 400000, 4), machine).end_us();
  CHECK(four < 0.95 * one);
}

TEST(chunks_fill_a_tree) {
  Machine machine = links_only(1, 0.001);
  machine.channel_bytes = 64 * kMiB;
  PlanRequest request = all_reduce(Algorithm::kTree, 16, 4 * kMiB);
  request.chunk_bytes = 4 * kMiB;
  const double whole = simulate(request, machine).end_us();
  CHECK(within(whole, 8 * (1 + 4 * kMiB * 0.001), 1e-6));  // four hops up, four down
  request.chunk_bytes = 64 << 10;
  const double chunked = simulate(request, machine).end_us();
  CHECK(chunked < whole / 4);
  // Both directions are busy, so that a chunk costs its bytes once: no round trip between chunks.
  CHECK(within(chunked, 4 * kMiB * 0.001 + 8 * (1 + 65536 * 0.001), 0.1));
}

TEST(a_slow_rank_sets_the_pace) {
  const PlanRequest request = all_reduce(Algorithm::kRing, 8, 8 * kMiB);
  Machine machine;
  const Simulated even = simulate(request, machine);
  machine.rank_slowness.assign(8, 1.0);
  machine.rank_slowness[3] = 4;
  const Simulated uneven = simulate(request, machine);
  CHECK(within(uneven.end_us(), 4 * even.end_us(), 0.1));
  CHECK(within(uneven.busy_us[3], 4 * even.busy_us[3], 1e-9));
  CHECK(within(uneven.busy_us[0], even.busy_us[0], 1e-9));
}

TEST(a_slow_link_shows_where_it_is_used) {
  Machine machine = links_only(1, 0.001);
  machine.slow_links = {{.from = 2, .to = 3, .factor = 10}};
  const PlanRequest ring = all_reduce(Algorithm::kRing, 8, kMiB);
  const Simulated slow = simulate(ring, machine);
  CHECK(slow.end_us() > 5 * simulate(ring, links_only(1, 0.001)).end_us());
  for (const LinkUse& link : slow.links) {
    const bool is_slow = link.from == 2 && link.to == 3;
    const double expected = static_cast<double>(link.bytes) * 0.001 * (is_slow ? 10 : 1);
    CHECK(within(link.busy_us, expected, 1e-9));
  }
  machine.slow_links = {
      {.from = 3, .to = 2, .factor = 10}};  // the other direction, which the ring does not use
  CHECK_EQ(simulate(ring, machine).end_us(), simulate(ring, links_only(1, 0.001)).end_us());
}

// At 1 Gbit/s the interface decides: a host sends an m-th of the bytes of the direct form.
TEST(encoded_bytes_cross_hosts_once_for_all_their_ranks) {
  Machine machine = on_hosts(8, 4);
  machine.constants.nic_us_per_byte = machine.constants.between_hosts.beta_us_per_byte = 8e-3;
  PlanRequest request = all_reduce(Algorithm::kHierarchical, 8, 16 * kMiB);
  request.codec = Codec::kInt8;
  request.host_of = machine.host_of;
  const Simulated by_host = simulate(request, machine);
  request.algorithm = Algorithm::kDirect;
  const Simulated flat = simulate(request, machine);
  const double crossing = static_cast<double>(encoded_bytes(Codec::kInt8, 4 * kMiB)) * 8e-3;
  for (const HostUse& host : by_host.hosts) CHECK(within(host.sending_us, crossing, 1e-3));
  for (const HostUse& host : flat.hosts) CHECK(within(host.sending_us, 4 * crossing, 1e-3));
  CHECK(by_host.end_us() > crossing && by_host.end_us() < 1.3 * crossing);
  CHECK(flat.end_us() > 4 * crossing);
}

TEST(ranks_share_their_hosts_interface) {
  Machine machine = on_hosts(16, 4, links_only(1, 1e-4));
  const PlanRequest request = all_reduce(Algorithm::kHierarchical, 16, 16 * kMiB);
  const double wide = simulate(request, machine).end_us();
  machine.constants.nic_us_per_byte = 1e-3;
  const Simulated shared = simulate(request, machine);
  // 2 (H - 1)/H * S leave every host, one byte after the other.
  const double crossing = 2.0 * 3 / 4 * 16 * kMiB * 1e-3;
  CHECK(shared.end_us() > crossing);
  CHECK(shared.end_us() < 1.2 * (crossing + wide));
  CHECK_EQ(shared.hosts.size(), 4U);
  for (const HostUse& host : shared.hosts) {
    CHECK(within(host.sending_us, crossing, 1e-9));
    CHECK(within(host.receiving_us, crossing, 1e-9));
  }
}

TEST(more_ranks_than_cores_slow_each_other_down) {
  Machine machine;
  const PlanRequest request = all_reduce(Algorithm::kHalving, 8, 64 * kMiB);
  const double enough = simulate(request, machine).end_us();
  machine.constants.cores_per_host = 2;
  CHECK(within(simulate(request, machine).end_us(), 4 * enough, 0.01));
  machine.machine_of.assign(8, 0);
  machine.host_of = {0, 1, 2, 3, 4, 5, 6, 7};  // memory apart, cores shared
  machine.constants.between_hosts = machine.constants.same_host;
  machine.constants.nic_us_per_byte = 0;
  CHECK(within(simulate(request, machine).end_us(), 4 * enough, 0.01));
  machine.machine_of.clear();  // two cores each: enough
  CHECK(within(simulate(request, machine).end_us(), enough, 1e-9));
}

// Two ranks on one core: one sends, then the core must switch to the other.
TEST(a_core_changes_hands_at_a_price) {
  Machine machine = links_only(1, 0);
  machine.constants.same_host.overhead_us = 1;
  machine.constants.cores_per_host = 1;
  machine.constants.switch_us = 0;
  const PlanRequest request = all_reduce(Algorithm::kDirect, 2, 8);
  const double unpaid = simulate(request, machine).end_us();
  CHECK(within(unpaid, 4, 1e-9));  // two sends and two receives, one at a time
  machine.constants.switch_us = 100;
  const double paid = simulate(request, machine).end_us();
  CHECK(paid >= unpaid + 2 * 100);  // a switch to rank 1, which sends, and one back
  CHECK(paid <= unpaid + 4 * 100);
}

TEST(all_wait_for_a_late_rank) {
  Machine machine;
  machine.start_us = {0, 0, 5000, 0};
  const Simulated late = simulate(all_reduce(Algorithm::kDirect, 4, 64), machine);
  for (const double finish : late.finish_us) CHECK(finish > 5000);
  const Simulated prompt = simulate(all_reduce(Algorithm::kDirect, 4, 64), {});
  CHECK(late.end_us() < 5000 + prompt.end_us());
}

// The bytes that fit into the channel leave at once, the rest when the receiver comes.
TEST(a_channel_holds_so_much_and_no_more) {
  Machine machine = links_only(1, 0.001);
  machine.start_us = {0, 100000};
  PlanRequest request = all_reduce(Algorithm::kDirect, 2, 400000);
  request.collective = Collective::kBroadcast;
  machine.channel_bytes = 1 << 20;
  CHECK(within(simulate(request, machine).end_us(), 100001, 1e-4));
  machine.channel_bytes = 100000;
  CHECK(within(simulate(request, machine).end_us(), 100000 + 300000 * 0.001 + 1, 1e-4));
}

TEST(equal_arguments_give_equal_times) {
  for (const Algorithm algorithm : algorithms_of(Collective::kAllReduce)) {
    const PlanRequest request = all_reduce(algorithm, 24, 3 * kMiB, 3);
    const Machine machine = on_hosts(24, 5);
    const Simulated first = simulate(request, machine);
    const Simulated second = simulate(request, machine);
    CHECK(first.finish_us == second.finish_us);
    CHECK(first.links == second.links);
    CHECK(first.hosts == second.hosts);
  }
}

TEST(bytes_are_those_of_the_schedules) {
  const Simulated ring = simulate(all_reduce(Algorithm::kRing, 8, kMiB), {});
  CHECK_EQ(ring.links.size(), 16U);  // in the other direction only the handshake, an empty frame
  for (const LinkUse& link : ring.links) {
    const bool forward = link.to == (link.from + 1) % 8;
    CHECK_EQ(link.bytes, forward ? 2 * 7 * kMiB / 8 : 0);
    CHECK_EQ(link.frames, forward ? 14U : 1U);
  }
}

TEST(schedules_that_do_not_match_are_named) {
  const auto lonely = [](int rank) { return rank == 0 ? schedule_of(recv_from(1)) : Schedule{}; };
  CHECK_THROWS(simulate(2, lonely, {}), InvalidArgumentError, "rank 0 waits forever for rank 1");
  const auto unheard = [](int rank) { return rank == 0 ? schedule_of(send_to(1)) : Schedule{}; };
  CHECK_THROWS(simulate(2, unheard, {}), InvalidArgumentError, "rank 1 never receives");
  const auto stranger = [](int rank) { return rank == 0 ? schedule_of(send_to(5)) : Schedule{}; };
  CHECK_THROWS(simulate(2, stranger, {}), InvalidArgumentError, "rank 5, which does not exist");
  Machine machine;
  machine.start_us = {1, 2, 3};
  CHECK_THROWS(simulate(2, lonely, machine), InvalidArgumentError, "start_us has 3 entries");
}
