// The price where ranks outnumber the cores of their machine.
#include <algorithm>
#include <cmath>

#include "plan/builders/direct.h"
#include "plan/pricer.h"

namespace fastgpu {

// Ranks that have nothing to do leave their core to others, so what counts is neither the busiest
// rank nor how many there are, but all that the machine's ranks do, spread over its cores; unless
// the longest chain, with a core for every rank, takes longer (R. L. Graham, "Bounds on
// multiprocessing timing anomalies", 1969). And every hop waits for its receiver's turn.
double Pricer::oversubscribed(double span) const {
  const Work work = work_of_all();
  const double inside = 1 - work.outside;
  const double overhead = inside * inside_.overhead + work.outside * outside_.overhead;
  const double cpu = inside * inside_.cpu + work.outside * outside_.cpu;
  const double all = 2 * (work.frames * overhead + work.bytes * cpu) +
                     work.reduced * constants_.reduce_us_per_byte + copy_us(work.copied);
  const bool in_step = work.even && request_.placement.hosts == 1;
  const double rounds = in_step ? std::ceil(crowding_) : crowding_;
  const double shared = all / world() * rounds + (1 - 1 / crowding_) * span;
  return std::max(span, shared) + work.turns * turn_us();
}

// The others on my core look once, in vain, and hand over.
double Pricer::turn_us() const {
  return (crowding_ - 1) * (constants_.switch_us + widest().overhead);
}

Pricer::Work Pricer::work_of_all() const {
  const double n = world();
  const double hosts = request_.placement.hosts;
  const double border = hosts > 1 ? hosts / n : 0;  // of the steps to a neighbour
  const double apart = (n - request_.placement.most_per_host) / std::max(1.0, n - 1);
  const double all = bytes();
  const bool by_ring = request_.algorithm == Algorithm::kRing;
  const double pairs = n * (n - 1);
  switch (request_.collective) {
    case Collective::kAllReduce:
      return all_reduce_work();
    case Collective::kReduceScatter:
      return {.frames = pairs * lanes_ * (by_ring ? 2 : 1),
              .bytes = pairs * all,
              .reduced = pairs * all,
              .copied = (by_ring ? pairs : n) * all,
              .outside = by_ring ? border : apart,
              .turns = by_ring ? (n - 1) / 2 : 0.5};
    case Collective::kAllGather:
      return {.frames = pairs * lanes_,
              .bytes = pairs * all,
              .copied = n * all,
              .outside = by_ring ? border : apart,
              .turns = by_ring ? (n - 1) / 2 : 0.5};
    case Collective::kAllToAll:
      return {.frames = pairs * lanes_,
              .bytes = pairs * all,
              .copied = n * all,
              .outside = apart,
              .turns = 0.5};
    case Collective::kBarrier:
      return {.frames = n * log2_ceiling(world()) * 2.0, .turns = log2_ceiling(world()) / 2.0};
    default:
      return rooted_work();
  }
}

Pricer::Work Pricer::all_reduce_work() const {
  const double n = world();
  const double hosts = request_.placement.hosts;
  const double all = bytes();
  const double apart = (n - request_.placement.most_per_host) / std::max(1.0, n - 1);
  Work work{.frames = 2 * n * (n - 1) * lanes_,
            .bytes = 2 * (n - 1) * all,
            .reduced = (n - 1) * all,
            .outside = hosts > 1 ? hosts / n : 0,
            .turns = n - 1,
            .even = true};
  switch (request_.algorithm) {
    case Algorithm::kTree:
      return tree_work(flow());
    case Algorithm::kHalving: {
      const double core = 1 << log2_floor(world());
      const double rounds = 2 * log2_floor(world());
      const bool pairs = n > core;  // in whose two hops the others have nothing to do
      work.frames = (core * rounds + 2 * (n - core)) * lanes_;
      work.turns = rounds / 2 + (pairs ? 2 : 0);
      work.outside = apart;
      work.even = !pairs;
      return work;
    }
    case Algorithm::kHierarchical: {
      const double local = n / hosts;
      work.frames = 2 * n * (local - 1 + hosts - 1) * lanes_;
      work.copied = all * hosts;
      work.outside = (hosts - 1) / (n - 1);
      work.turns = 1 + (hosts - 1);
      return work;
    }
    case Algorithm::kDirect: {
      const bool one_shot = takes_one_shot(request_.bytes, world(), request_.shots);
      work.outside = apart;
      work.turns = one_shot ? 0.5 : 1;
      work.copied = 2 * all;
      if (!one_shot) return work;
      work.frames /= 2;
      work.bytes *= n / 2;
      work.reduced *= n;
      work.copied *= n;
      return work;
    }
    default:
      return work;
  }
}

// Chunks go one after the other, and only those of a tree that are at the chunk have work: a hop is
// a whole turn.
Pricer::Work Pricer::tree_work(const Flow& flow) const {
  const double n = world();
  const double chunks = std::ceil(bytes() / lanes_ / static_cast<double>(request_.chunk_bytes));
  const double passes = (flow.rises ? 1 : 0) + (flow.falls ? 1 : 0);
  const double hosts = request_.placement.hosts;
  return {.frames = (n - 1) * lanes_ * (passes * chunks + 2 - passes),
          .bytes = passes * (n - 1) * bytes(),
          .reduced = flow.rises ? (n - 1) * bytes() : 0,
          .copied = flow.falls ? 0 : n * bytes(),
          .outside = hosts > 1 ? (hosts - 1) / (n - 1) : 0,
          .turns = passes * flow.height + chunks - 1};
}

// Between a root and everyone, one way; a ring's scatter is followed by an all-gather.
Pricer::Work Pricer::rooted_work() const {
  const double n = world();
  const double apart = (n - request_.placement.most_per_host) / std::max(1.0, n - 1);
  const bool reduces = request_.collective == Collective::kReduce;
  if (request_.algorithm == Algorithm::kTree) return tree_work(flow());
  if (request_.algorithm == Algorithm::kRing) {
    return {.frames = (n + 1) * (n - 1) * lanes_,
            .bytes = (n - 1) * bytes(),
            .outside = apart,
            .turns = n / 2};
  }
  if (is_staged_broadcast()) {
    const double chunks = std::ceil(bytes() / static_cast<double>(request_.chunk_bytes));
    return {.frames = 2 * (n - 1) * chunks,
            .bytes = (n - 1) * bytes() / 2,  // the root does not move them
            .copied = bytes(),
            .turns = 0.5};
  }
  return {.frames = 2 * (n - 1) * lanes_,
          .bytes = (n - 1) * bytes(),
          .reduced = reduces ? (n - 1) * bytes() : 0,
          .copied = bytes(),
          .outside = apart,
          .turns = 0.5};
}

}  // namespace fastgpu
