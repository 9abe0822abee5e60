#include "plan/choose.h"

#include <algorithm>
#include <array>
#include <bit>

#include "plan/build.h"

namespace fastgpu {
namespace {

// A lane with less than this is all latency: splitting further cannot pay.
constexpr uint64_t kLeastLaneBytes = 64 * 1024;
constexpr std::array<int, 5> kLaneCounts{1, 2, kMaxChosenLanes, 8, 16};

bool is_crowded(const Placement& placement, const Constants& constants) {
  const int cores = constants.cores_per_host;
  return cores > 0 && placement.most_per_machine > cores;
}

// One lane where every core has a rank to run already.
std::span<const int> lane_counts(const Placement& placement, const Constants& constants) {
  return std::span(kLaneCounts).first(is_crowded(placement, constants) ? 1 : kLaneCounts.size());
}

bool has(std::span<const Algorithm> algorithms, Algorithm algorithm) {
  return std::find(algorithms.begin(), algorithms.end(), algorithm) != algorithms.end();
}

// Blocks pay where hops are short and memory is what limits: on one host, and where the wire is a
// machine's own memory, too. Each rank's shard of one is then this large, few of which fill a
// cache, and large enough for the frames' own cost not to show.
constexpr uint64_t kShardBytes = 256 * 1024;
constexpr uint64_t kLeastBlockBetweenHosts = 1 << 20;
constexpr uint64_t kMostBlocks = 2048;
constexpr double kMemoryHopUs = 15;
constexpr double kMemoryByteUs = 3e-4;

uint64_t block_bytes_of(const ChooseRequest& request, const LinkCosts& between_hosts) {
  uint64_t least = kShardBytes * static_cast<uint64_t>(request.placement.world);
  if (request.placement.hosts > 1) {
    const double hop = between_hosts.alpha_us + 2 * between_hosts.overhead_us;
    if (hop > kMemoryHopUs || between_hosts.beta_us_per_byte > kMemoryByteUs) return 0;
    least = std::max(least, kLeastBlockBetweenHosts);
  }
  return std::max(least, request.bytes / kMostBlocks);
}

bool sensible(Algorithm algorithm, const Placement& placement) {
  return algorithm != Algorithm::kHierarchical ||
         (placement.hosts > 1 && placement.most_per_host > 1);
}

// The most that a rank sends in one shot. By price alone a hop that was slow when it was measured
// would carry one-shot far beyond, where every byte is copied n times over (1 MiB: 98 us, not 62).
constexpr uint64_t kMostOneShotBytes = 32 * 1024;
// Two ranks of a host get no more bytes by two shots, and the sums back over their stage, which
// prices do not know of.
constexpr uint64_t kMostOneShotBytesOfTwo = 4 * 1024 - 1;
constexpr uint64_t kMostOneShotBytesBetweenHosts = 128 * 1024;

bool too_large_for(int shots, const ChooseRequest& request) {
  const Placement& placement = request.placement;
  const uint64_t inside = placement.world == 2 ? kMostOneShotBytesOfTwo : kMostOneShotBytes;
  const uint64_t most = placement.hosts > 1 ? kMostOneShotBytesBetweenHosts : inside;
  return shots == 1 && request.bytes * static_cast<uint64_t>(placement.world - 1) > most;
}

// Prices are not more exact than this: of two that are closer the first one is taken, which has the
// simpler schedule.
constexpr double kWorthIt = 0.95;

// A tree comes first of a broadcast's: where ranks share cores what they hand on of a large one is
// still in the caches in a tree, by chunks, and no longer in a ring, by shards. Prices know of no
// caches (64 MiB, 4 ranks on 2 cores: 8.2 ms and 10.2).
constexpr double kWorthColdShards = 0.8;

// How cheap an algorithm must be to take the place of one before it. Where a host's ranks share
// cores every hop waits for a turn, whose length nobody knows beforehand, so that few hops are
// better: direct ones of an all_gather and of an all_reduce, also where the latter's copies make
// them dearer by price; and halving's, as long as they are few or small (4 ranks on 2 cores, ms:
// 16 MiB by halving 5.8, direct 6.5, by a ring 7.5; 8 ranks, 4 MiB: 4.2, 3.8, 5.4).
constexpr double kWorthFewHops = 1.25;
constexpr int kFewRanks = 4;
constexpr uint64_t kSmallShardBytes = 64 * 1024;

double worth_of(Algorithm algorithm, const ChooseRequest& request, const Constants& constants) {
  const Placement& placement = request.placement;
  if (placement.hosts > 1 || !is_crowded(placement, constants)) return kWorthIt;
  const auto world = static_cast<uint64_t>(placement.world);
  if (request.collective == Collective::kAllReduce) {
    if (algorithm == Algorithm::kDirect) return kWorthFewHops;
    const bool few = placement.world <= kFewRanks || request.bytes <= kSmallShardBytes * world;
    const bool halves = algorithm == Algorithm::kHalving && std::has_single_bit(world) && few;
    return halves ? 1 : kWorthIt / kWorthFewHops;
  }
  if (request.collective == Collective::kAllGather && algorithm == Algorithm::kDirect) return 1;
  const bool leaves_caches =
      request.collective == Collective::kBroadcast && request.bytes > kShardBytes * world;
  return leaves_caches ? kWorthColdShards : kWorthIt;
}

// Below this there is a copy too many in laying out a broadcast in scratch.
constexpr uint64_t kLeastStagedBroadcastBytes = 128 * 1024;

// What a direct all_reduce or broadcast may do; other algorithms have nothing to decide here.
std::span<const int> shots_of(const ChooseRequest& request, Algorithm algorithm) {
  static constexpr std::array<int, 4> kShots{0, 2, 1, 2};
  const std::span shots(kShots);
  if (algorithm != Algorithm::kDirect) return shots.first(1);
  if (request.collective == Collective::kAllReduce) return shots.last(2);
  const bool may_lay_out = request.collective == Collective::kBroadcast &&
                           request.placement.hosts == 1 && request.placement.world > 2 &&
                           request.bytes >= kLeastStagedBroadcastBytes;
  return may_lay_out ? shots.first(2) : shots.first(1);
}

// The algorithms to compare: one where the caller, determinism or the collective leaves no choice.
std::span<const Algorithm> candidates(const ChooseRequest& request,
                                      std::span<const Algorithm> algorithms) {
  const auto only = [&](Algorithm algorithm) {
    return std::span(std::find(algorithms.begin(), algorithms.end(), algorithm), 1);
  };
  if (request.deterministic && has(algorithms, Algorithm::kDirect)) return only(Algorithm::kDirect);
  if (request.forced == Algorithm::kAuto) return algorithms;
  return only(has(algorithms, request.forced) ? request.forced : algorithms.front());
}

}  // namespace

int most_chosen_lanes(int engine_threads) {
  return std::max(kMaxChosenLanes,
                  static_cast<int>(std::bit_floor(static_cast<unsigned>(engine_threads))));
}

Choice choose(const ChooseRequest& request, const Constants& constants) {
  const auto algorithms = candidates(request, algorithms_of(request.collective));
  PriceRequest price{
      .collective = request.collective, .bytes = request.bytes, .placement = request.placement};
  Choice best;
  double best_us = -1;
  const auto compare = [&] {
    const bool in_chunks = price.algorithm == Algorithm::kTree;
    price.chunk_bytes = in_chunks ? tree_chunk_bytes(price, constants) : PriceRequest{}.chunk_bytes;
    const double us = predict_us(price, constants);
    // What an algorithm is worth it is worth over others, not over another way of its own.
    const bool is_staged_broadcast =
        price.shots == 2 && request.collective == Collective::kBroadcast;
    const double worth = is_staged_broadcast || price.algorithm == best.algorithm
                             ? kWorthIt
                             : worth_of(price.algorithm, request, constants);
    if (best_us >= 0 && us >= worth * best_us) return;
    best_us = us;
    best = {price.algorithm, price.lanes, price.chunk_bytes, price.shots, 0};
  };
  for (const Algorithm algorithm : algorithms) {
    if (algorithms.size() > 1 && !sensible(algorithm, request.placement)) continue;
    price.algorithm = algorithm;
    for (const int shots : shots_of(request, algorithm)) {
      if (too_large_for(shots, request)) continue;
      price.shots = shots;
      for (const int lanes : lane_counts(request.placement, constants)) {
        if (request.lanes > 0 && lanes > 1) break;
        if (lanes > most_chosen_lanes(request.placement.engine_threads)) break;
        if (lanes > 1 && request.bytes / static_cast<uint64_t>(lanes) < kLeastLaneBytes) break;
        price.lanes = request.lanes > 0 ? request.lanes : lanes;
        compare();
      }
    }
  }
  best.block_bytes = block_bytes_of(request, constants.between_hosts);
  return best;
}

}  // namespace fastgpu
