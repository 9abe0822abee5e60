// The price of pipelined trees.
#include <algorithm>
#include <cmath>
#include <utility>

#include "plan/pricer.h"

namespace fastgpu {
namespace {

constexpr uint64_t kLeastChunk = 4 * 1024;
constexpr uint64_t kMostChunk = 256 * 1024;

}  // namespace

// Of a chunk, from the farthest leaf to the top or back. Going up, a rank takes from two children.
double Pricer::tree_hops(const Flow& flow, double chunk, bool reduce) const {
  const Placement& placement = request_.placement;
  const int inner = std::min(flow.height, log2_floor(placement.most_per_host));
  const int outer = placement.hosts > 1 ? std::min(flow.height, flow.height - inner + 1) : 0;
  double time = 0;
  for (const auto& [way, hops] :
       {std::pair(&inside_, flow.height - outer), std::pair(&outside_, outer)}) {
    const double second = way->overhead + chunk * (reduce ? way->take_reduce : way->cpu);
    time += hops * (hop(*way, chunk, reduce) + (flow.children - 1) * second);
  }
  return time;
}

// Chunks of all lanes follow each other as fast as the busiest rank or wire moves them. A rank is
// inside one of the two trees (two children where the world has them) and a leaf of the other.
double Pricer::tree_period(const Flow& flow, double chunk) const {
  const Way& way = widest();
  const double move = way.overhead + chunk * way.cpu;  // a send, or a receive that stores
  const double take_reduce = way.overhead + chunk * way.take_reduce;
  double inner = 0;
  double leaf = 0;
  if (flow.rises) {
    inner += flow.children * take_reduce + flow.parents * move;
    leaf += move;
  }
  if (flow.falls) {
    inner += (flow.parents + flow.children) * move;
    leaf += move;
  }
  if (!flow.falls) inner += copy_us(chunk);  // the input stays as it is
  const double first_trees = std::ceil(lanes_ / 2);
  const double processor = first_trees * inner + (lanes_ - first_trees) * leaf;
  const double passes = (flow.rises ? 1 : 0) + (flow.falls ? 1 : 0);
  const double nic = way.leaves_host ? lanes_ * chunk * passes * constants_.nic_us_per_byte : 0;
  return std::max({processor, chunk * way.beta, nic});
}

double Pricer::tree(const Flow& flow) const {
  const double lane = bytes() / lanes_;
  const double chunk = std::min(lane, static_cast<double>(request_.chunk_bytes));
  const double chunks = std::ceil(lane / chunk);
  double fill = 0;
  for (const bool reduce : {true, false}) {
    if (reduce ? flow.rises : flow.falls) fill += tree_hops(flow, chunk, reduce);
  }
  const double other_lanes = (lanes_ - 1) / lanes_;  // wait their turn once
  return fill + (chunks - 1 + other_lanes) * tree_period(flow, chunk);
}

// All-reduce: over all ranks; else over all but the root, which is tied to the top.
Pricer::Flow Pricer::flow() const {
  const bool rises = request_.collective != Collective::kBroadcast;
  const bool falls = request_.collective != Collective::kReduce;
  const int tied = rises && falls ? 0 : 1;
  const int size = world() - tied;
  return {.rises = rises,
          .falls = falls,
          .height = log2_floor(size) + tied,
          .children = size >= 3 ? 2 : 1,
          .parents = size >= 4 ? 1 : tied};
}

uint64_t Pricer::best_chunk() const {
  PriceRequest request = request_;
  request.algorithm = Algorithm::kTree;
  uint64_t best = kLeastChunk;
  double best_us = 0;
  for (request.chunk_bytes = kLeastChunk; request.chunk_bytes <= kMostChunk;
       request.chunk_bytes *= 2) {
    const double us = Pricer(request, constants_).price();
    if (request.chunk_bytes > kLeastChunk && us >= best_us) continue;
    best = request.chunk_bytes;
    best_us = us;
  }
  return best;
}

}  // namespace fastgpu
