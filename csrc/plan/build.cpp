#include "plan/build.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string>

#include "base/error.h"
#include "plan/builders/direct.h"
#include "plan/builders/halving.h"
#include "plan/builders/hierarchical.h"
#include "plan/builders/lane_context.h"
#include "plan/builders/ring.h"
#include "plan/builders/rooted.h"
#include "plan/builders/tree.h"

namespace fastgpu {
namespace {

constexpr int kMaxLanes = 255;

using Builder = void (*)(LaneContext&);

struct Entry {
  Collective collective;
  Algorithm algorithm;
  Builder builder;
};

// Entries of one collective are adjacent, its default algorithm first.
constexpr std::array kBuilders{
    Entry{Collective::kAllReduce, Algorithm::kRing, ring_all_reduce},
    Entry{Collective::kAllReduce, Algorithm::kDirect, direct_all_reduce},
    Entry{Collective::kAllReduce, Algorithm::kTree, tree_all_reduce},
    Entry{Collective::kAllReduce, Algorithm::kHalving, halving_all_reduce},
    Entry{Collective::kAllReduce, Algorithm::kHierarchical, hierarchical_all_reduce},
    Entry{Collective::kReduceScatter, Algorithm::kRing, ring_reduce_scatter},
    Entry{Collective::kReduceScatter, Algorithm::kDirect, direct_reduce_scatter},
    Entry{Collective::kAllGather, Algorithm::kRing, ring_all_gather},
    Entry{Collective::kAllGather, Algorithm::kDirect, direct_all_gather},
    Entry{Collective::kBroadcast, Algorithm::kTree, tree_broadcast},
    Entry{Collective::kBroadcast, Algorithm::kDirect, direct_broadcast},
    Entry{Collective::kBroadcast, Algorithm::kRing, ring_broadcast},
    Entry{Collective::kReduce, Algorithm::kTree, tree_reduce},
    Entry{Collective::kReduce, Algorithm::kDirect, direct_reduce},
    Entry{Collective::kGather, Algorithm::kDirect, direct_gather},
    Entry{Collective::kScatter, Algorithm::kDirect, direct_scatter},
    Entry{Collective::kAllToAll, Algorithm::kDirect, direct_all_to_all},
    Entry{Collective::kBarrier, Algorithm::kDirect, barrier},
};

constexpr auto kAlgorithms = [] {
  std::array<Algorithm, kBuilders.size()> algorithms{};
  for (std::size_t i = 0; i < kBuilders.size(); ++i) algorithms[i] = kBuilders[i].algorithm;
  return algorithms;
}();

[[noreturn]] void reject(const PlanRequest& request, const std::string& why) {
  raise(ErrorKind::kInvalidArgument, "cannot plan " + std::string(name_of(request.collective)) +
                                         " of " + std::to_string(request.count) +
                                         " elements over " + std::to_string(request.world) +
                                         " ranks: " + why);
}

void check(const PlanRequest& request) {
  const auto in_world = [&](int rank) { return rank >= 0 && rank < request.world; };
  const auto world = static_cast<std::size_t>(request.world);
  if (request.world < 1 || request.world > kMaxWorld) {
    reject(request, "there must be 1 to " + std::to_string(kMaxWorld));
  }
  if (!in_world(request.rank)) {
    reject(request, "rank " + std::to_string(request.rank) + " is not one of them");
  }
  if (!in_world(request.root)) {
    reject(request, "root " + std::to_string(request.root) + " is not one of them");
  }
  if (request.lanes < 1 || request.lanes > kMaxLanes) reject(request, "use 1 to 255 lanes");
  if (request.shots < 0 || request.shots > 2) reject(request, "use 1 or 2 shots, or 0 for either");
  if (request.element_size < 1) reject(request, "element_size must be at least 1");
  const bool may_encode =
      request.collective == Collective::kAllReduce &&
      (request.algorithm == Algorithm::kDirect || request.algorithm == Algorithm::kHierarchical) &&
      request.element_size == sizeof(float);
  if (request.codec != Codec::kNone && !may_encode) {
    reject(request, "only a direct or hierarchical all_reduce of float32 has a codec");
  }
  const uint64_t limit = std::numeric_limits<int64_t>::max() / request.element_size / world;
  if (request.count > limit) reject(request, "this is more than memory can hold");
  if (!request.host_of.empty() && request.host_of.size() != world) {
    reject(request, "host_of has " + std::to_string(request.host_of.size()) + " entries");
  }
  if (request.send_counts.size() != request.recv_counts.size() ||
      (!request.send_counts.empty() && request.send_counts.size() != world)) {
    reject(request, "send_counts and recv_counts need one entry per rank, or none");
  }
}

Builder builder_for(const PlanRequest& request) {
  for (const Entry& entry : kBuilders) {
    if (entry.collective == request.collective && entry.algorithm == request.algorithm) {
      return entry.builder;
    }
  }
  std::string known;
  for (const Algorithm algorithm : algorithms_of(request.collective)) {
    known += (known.empty() ? "" : ", ") + std::string(name_of(algorithm));
  }
  reject(request, "it has no algorithm '" + std::string(name_of(request.algorithm)) +
                      "'; its algorithms are: " + known);
}

// World size 1: the result is the input.
void copy_input_to_data(LaneContext& context) {
  const Collective collective = context.request.collective;
  if (collective == Collective::kAllToAll) return direct_all_to_all(context);
  if (collective == Collective::kAllReduce || collective == Collective::kBroadcast) return;
  context.steps.copy(context.input(), context.data());
}

}  // namespace

Schedule build(const PlanRequest& request) {
  check(request);
  Builder builder = builder_for(request);
  if (request.count == 0 && request.collective != Collective::kAllToAll) {
    builder = barrier;
  } else if (request.world == 1 && request.collective != Collective::kBarrier) {
    builder = copy_input_to_data;
  }
  Schedule schedule;
  ScratchLayout scratch;
  for (int lane = 0; lane < request.lanes; ++lane) {
    LaneContext context{request, lane, scratch, {}};
    builder(context);
    schedule.lanes.push_back(context.steps.finish());
  }
  schedule.scratch_bytes = scratch.used_bytes();
  schedule.scratch_shared = scratch.shared();
  return schedule;
}

std::span<const Algorithm> algorithms_of(Collective collective) {
  const auto of_collective = [&](const Entry& entry) { return entry.collective == collective; };
  const auto first = std::find_if(kBuilders.begin(), kBuilders.end(), of_collective);
  const auto last = std::find_if_not(first, kBuilders.end(), of_collective);
  return std::span(kAlgorithms)
      .subspan(static_cast<std::size_t>(first - kBuilders.begin()),
               static_cast<std::size_t>(last - first));
}

}  // namespace fastgpu
