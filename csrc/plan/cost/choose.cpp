#include "plan/cost/choose.h"

#include <algorithm>
#include <array>
#include <vector>

#include "plan/build.h"
#include "plan/builders/direct.h"

namespace fastgpu {
namespace {

// A lane with less than this is all latency: splitting further cannot pay.
constexpr uint64_t kLeastLaneBytes = 64 * 1024;

bool has(std::span<const Algorithm> algorithms, Algorithm algorithm) {
  return std::find(algorithms.begin(), algorithms.end(), algorithm) != algorithms.end();
}

// Blocks pay where hops are short and memory is what limits: on one host, and where the link
// between hosts is a machine's own memory, too. Each rank's shard of one is then this large, few
// of which fill a cache, and large enough for the frames' own cost not to show.
constexpr uint64_t kShardBytes = 256 * 1024;
constexpr uint64_t kLeastBlockBetweenHosts = 1 << 20;
constexpr uint64_t kMostBlocks = 2048;
constexpr double kMemoryHopUs = 15;
constexpr double kMemoryByteUs = 3e-4;

uint64_t block_bytes_of(const ChooseRequest& request, const Constants& constants) {
  if (constants.is_gpu) return 0;
  const LinkCosts& between_hosts = constants.between_hosts;
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

// Prices are no more exact than this: an algorithm replaces a preferred one only if it costs less
// than this share of the preferred price.
constexpr double kWorthIt = 0.95;

// A hop that happened to be slow when it was measured must not carry one-shot beyond this size,
// where it copies every byte n times.
bool too_large_for(int shots, const ChooseRequest& request) {
  return request.collective == Collective::kAllReduce && shots == 1 &&
         !takes_one_shot(request.bytes, request.placement.world, 0);
}

// Below this the additional copy of a staged broadcast does not pay.
constexpr uint64_t kLeastStagedBytes = 128 * 1024;

// The ways a direct all_reduce or broadcast can go; other algorithms have one.
std::span<const int> shots_of(const ChooseRequest& request, Algorithm algorithm) {
  static constexpr std::array<int, 4> kShots{0, 2, 1, 2};
  const std::span shots(kShots);
  if (algorithm != Algorithm::kDirect) return shots.first(1);
  if (request.collective == Collective::kAllReduce) return shots.last(2);
  const bool may_stage = request.collective == Collective::kBroadcast &&
                         request.placement.hosts == 1 && request.placement.world > 2 &&
                         request.bytes >= kLeastStagedBytes;
  return may_stage ? shots.first(2) : shots.first(1);
}

// The algorithms to compare: one where the caller, determinism or the collective leaves no choice.
std::span<const Algorithm> candidates_of(const ChooseRequest& request,
                                         std::span<const Algorithm> algorithms) {
  const auto only = [&](Algorithm algorithm) {
    return std::span(std::find(algorithms.begin(), algorithms.end(), algorithm), 1);
  };
  if (request.deterministic && has(algorithms, Algorithm::kDirect)) return only(Algorithm::kDirect);
  if (request.forced == Algorithm::kAuto) return algorithms;
  return only(has(algorithms, request.forced) ? request.forced : algorithms.front());
}

struct Candidate {
  Choice choice;
  Price price;
};

// Prices one lane, and more as long as they pay.
void price_lanes(const ChooseRequest& request, PriceRequest price, CostModel& model,
                 std::vector<Candidate>& candidates) {
  const bool one = request.lanes > 0 || oversubscribed(request.placement, model.constants());
  double last_us = 0;
  for (int lanes = 1; lanes <= (one ? 1 : kMaxChosenLanes); lanes *= 2) {
    if (lanes > 1 && request.bytes / static_cast<uint64_t>(lanes) < kLeastLaneBytes) return;
    price.lanes = request.lanes > 0 ? request.lanes : lanes;
    price.chunk_bytes = model.best_chunk_bytes(price);
    const Price found = model.price(price);
    candidates.push_back(
        {{price.algorithm, price.lanes, price.chunk_bytes, price.shots, 0}, found});
    if (lanes > 1 && found.us >= kWorthIt * last_us) return;
    if (found.least_us >= kWorthIt * found.us) return;
    last_us = found.us;
  }
}

std::vector<Candidate> price_all(const ChooseRequest& request, CostModel& model) {
  const auto algorithms = candidates_of(request, algorithms_of(request.collective));
  std::vector<Candidate> candidates;
  PriceRequest price{
      .collective = request.collective, .bytes = request.bytes, .placement = request.placement};
  for (const Algorithm algorithm : algorithms) {
    if (algorithms.size() > 1 && !sensible(algorithm, request.placement)) continue;
    price.algorithm = algorithm;
    for (const int shots : shots_of(request, algorithm)) {
      if (too_large_for(shots, request)) continue;
      price.shots = shots;
      price_lanes(request, price, model, candidates);
    }
  }
  return candidates;
}

// Puts the preferred candidates first. These are schedules without a pipeline. If ranks share cores
// and memory they are those with the fewest rounds, because in each round a rank waits for a core,
// and nobody knows how long. (Between hosts the kernel takes frames for ranks that do not run.)
void order(std::vector<Candidate>& candidates, const Placement& placement,
           const Constants& constants) {
  const bool by_rounds = placement.hosts == 1 && oversubscribed(placement, constants);
  std::stable_sort(candidates.begin(), candidates.end(),
                   [&](const Candidate& a, const Candidate& b) {
                     return by_rounds ? a.price.rounds < b.price.rounds
                                      : (a.price.chunks > 1) < (b.price.chunks > 1);
                   });
}

// The price with the codec's work, which is taken to cost as much as copies: ranks measure
// different times of the codec, and must not disagree.
double encoded_us(const ChooseRequest& request, const Choice& choice, CostModel& model) {
  const Price price = model.price({.collective = request.collective,
                                   .algorithm = choice.algorithm,
                                   .bytes = request.bytes,
                                   .lanes = choice.lanes,
                                   .shots = choice.shots,
                                   .codec = request.codec,
                                   .placement = request.placement});
  const Constants& constants = model.constants();
  return price.us + price.codec.all() * constants.copy_us_per_byte *
                        ranks_per_core(request.placement, constants);
}

Choice choose_encoded(const ChooseRequest& request, CostModel& model) {
  const Choice flat{
      .algorithm = Algorithm::kDirect, .lanes = std::max(1, request.lanes), .shots = 2};
  Choice by_host = flat;
  by_host.algorithm = Algorithm::kHierarchical;
  by_host.shots = 0;
  if (request.deterministic || !sensible(Algorithm::kHierarchical, request.placement)) return flat;
  if (request.forced == Algorithm::kHierarchical) return by_host;
  if (request.forced != Algorithm::kAuto) return flat;
  const double flat_us = encoded_us(request, flat, model);
  return encoded_us(request, by_host, model) < kWorthIt * flat_us ? by_host : flat;
}

}  // namespace

Choice choose(const ChooseRequest& request, CostModel& model) {
  if (request.codec != Codec::kNone) return choose_encoded(request, model);
  auto candidates = price_all(request, model);
  order(candidates, request.placement, model.constants());
  const Candidate* best = &candidates.front();
  for (const Candidate& each : candidates) {
    if (each.price.us < kWorthIt * best->price.us) best = &each;
  }
  Choice choice = best->choice;
  choice.block_bytes = block_bytes_of(request, model.constants());
  return choice;
}

Choice choose(const ChooseRequest& request, const Constants& constants) {
  CostModel model(constants);
  return choose(request, model);
}

}  // namespace fastgpu
