#include "plan/cost.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "plan/builders/direct.h"
#include "plan/pricer.h"

// Sources of the forms (s: bytes of a step, n: ranks):
//   alpha + beta*s: R. W. Hockney, "The communication challenge for MPP", Parallel Computing 20,
//   1994 ring, halving-doubling, gamma: R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of
//   collective
//     communication operations in MPICH", IJHPCA 19(1), 2005
//   two pipelined trees: P. Sanders, J. Speck, J. L. Traeff, "Two-tree algorithms for full
//   bandwidth
//     broadcast, reduction and scan", Parallel Computing 35, 2009
//   processor overhead beside latency: D. Culler et al., "LogP", PPoPP 1993
namespace fastgpu {
namespace {

constexpr double kChannelBytes = 1 << 20;

}  // namespace

// The slowest of: the processor, that sends all and takes all; the last frame's way, that starts
// when the others have left; the host's network interface.
double Pricer::fan(const Way& way, const Fan& fan) const {
  if (fan.peers == 0) return 0;
  const double send = send_us(way, fan.size);
  const double take = take_us(way, fan.size, fan.reduce);
  const double processor = fan.peers * (send + take);
  const double last_leaves = (fan.peers * lanes_ - 1) * (send / lanes_) + way.overhead;
  const double last_moves =
      std::max({fan.size / lanes_ * way.beta, send / lanes_ - way.overhead, take / lanes_});
  const double last = last_leaves + way.alpha + last_moves;
  const double nic_us = fan.nic_bytes * constants_.nic_us_per_byte;
  const double nic = way.leaves_host ? way.overhead + way.alpha + nic_us : 0;
  return std::max({processor, last, nic});
}

double Pricer::message(const Way& way, double size, bool reduce) const {
  const double moves = std::max(
      {size / lanes_ * way.beta, send_us(way, size) - way.overhead, take_us(way, size, reduce)});
  return way.overhead + way.alpha + moves;
}

// One of n - 1, round all ranks. A shard crosses from host to host once for each host on its way
// and meets all hops in turn, so the mean counts; but no rank takes shards faster than the one at a
// border, that has a foot in both ways, or than the wire there.
double Pricer::ring_hop(double shard, bool reduce) const {
  const Fan one{1, shard, reduce, shard};
  const int hosts = request_.placement.hosts;
  if (hosts == 1 || hosts == world()) return fan(widest(), one);
  const double mean =
      ((world() - hosts) * fan(inside_, one) + hosts * fan(outside_, one)) / world();
  return std::max({mean, send_us(outside_, shard) + take_us(inside_, shard, reduce),
                   send_us(inside_, shard) + take_us(outside_, shard, reduce),
                   shard / lanes_ * outside_.beta, shard * constants_.nic_us_per_byte});
}

// Round the hosts, in as many rings as each has shards: they share its interface.
double Pricer::hosts_ring_pass(double total, bool reduce) const {
  const Placement& placement = request_.placement;
  const double shard = total / placement.hosts;
  return (placement.hosts - 1) *
         fan(outside_, {1, shard, reduce, shard * placement.fewest_per_host});
}

// The input stays as it is: every hop copies my part to where the sum passes. A rank hears that its
// sum was taken before it makes the next but one, so that all go at the pace of the longest way.
double Pricer::ring_reduce_scatter() const {
  const Way& way = widest();
  const double hop = ring_hop(bytes(), true) + copy_us(bytes());
  return (world() - 1) * std::max(hop, way.alpha + 2 * lanes_ * way.overhead);
}

// Scatter by the root, then an all-gather.
double Pricer::ring_broadcast() const {
  const double shard = bytes() / world();
  return (world() - 2) * send_us(widest(), shard) + message(widest(), shard, false) +
         ring_pass(shard, false);
}

// Every rank to every other at once: `size` to each, most of it to other hosts if there are any,
// through an interface that a host's ranks share. Those who reduce take in rank order, and the
// first in that order serves the last one last: that one takes nothing before all have left.
// Where frames are longer than a channel holds, all stand in line for the same sender.
double Pricer::direct_pass(double size, bool reduce) const {
  const Way& way = widest();
  const double locals = request_.placement.most_per_host;
  const double inside = locals - 1;
  const double outside = world() - locals;
  const double send = inside * send_us(inside_, size) + outside * send_us(outside_, size);
  const double take =
      inside * take_us(inside_, size, reduce) + outside * take_us(outside_, size, reduce);
  const double last_send = send_us(way, size) / lanes_;
  const double last_take = take_us(way, size, reduce) / lanes_;
  const double last_moves =
      std::max({size / lanes_ * way.beta, last_send - way.overhead, last_take});
  const double last = send - last_send + way.overhead + way.alpha + last_moves;
  const double nic_us = locals * outside * size * constants_.nic_us_per_byte;
  const double nic = way.leaves_host ? way.overhead + way.alpha + nic_us : 0;
  if (!reduce) return std::max({send + take, last, nic});
  const bool in_line = size / lanes_ > kChannelBytes;
  const double waits = in_line ? 1 + (1 - 1.5 / world()) / lanes_ : 1;
  return std::max({waits * (last + take - last_take), send + take, nic + take - last_take});
}

// Small parts go all at once, of large ones a few turns.
double Pricer::direct_all_to_all() const {
  const bool prompt = bytes() * world() <= kPostAllBytes;
  const double turns = prompt ? 1 : std::ceil((world() - 1) / (kTurnsAhead + 1.0));
  const double turn = fan(widest(), {1, bytes(), false, 0});
  return copy_us(bytes()) + std::max(direct_pass(bytes(), false), turns * turn);
}

// One-shot: everything to everyone. Two-shot: shards to their owners, sums back. My own part waits
// in scratch for its turn.
double Pricer::direct_all_reduce() const {
  const double all = bytes();
  if (takes_one_shot(request_.bytes, world(), request_.shots)) {
    return copy_us(all) + direct_pass(all, true) + copy_us(all, true);
  }
  const double shard = all / world();
  return copy_us(shard) + direct_pass(shard, true) + copy_us(shard, true) +
         direct_pass(shard, false);
}

// Distances 1, 2, 4, ...; vectors bytes/2, bytes/4, ...; then back. Ranks over a power of two give
// their whole vector to a neighbour first and get the result from it last.
double Pricer::halving_all_reduce() const {
  const int paired = 1 << log2_floor(world());
  const int sharers = request_.placement.most_per_host;
  const int spread = paired == world() ? 1 : 2;  // ranks between members of the core, at most
  double time = 0;
  double size = bytes() / 2;
  for (int distance = 1; distance < paired; distance *= 2) {
    for (const bool reduce : {true, false}) {
      time += fan(way_over(distance * spread), {1, size, reduce, size * sharers});
    }
    size /= 2;
  }
  if (paired == world()) return time;
  return time + message(way_over(1), bytes(), true) + message(way_over(1), bytes(), false);
}

// Reduce-scatter inside the hosts, all-reduce of each shard between them, all-gather inside. There
// are as many shards as the smallest host has ranks.
double Pricer::hierarchical_all_reduce() const {
  const Placement& placement = request_.placement;
  const int peers = placement.most_per_host - 1;
  const double shard = bytes() / placement.fewest_per_host;
  return copy_us(shard) + fan(inside_, {peers, shard, true, 0}) + copy_us(shard, true) +
         hosts_ring_pass(shard, true) + hosts_ring_pass(shard, false) +
         fan(inside_, {peers, shard, false, 0});
}

// The root serves the others one after the other, or takes from them.
double Pricer::rooted(bool to_root, bool reduce) const {
  const Way& way = widest();
  const int peers = world() - 1;
  if (is_staged_broadcast()) {
    const double chunk = std::min(bytes(), static_cast<double>(request_.chunk_bytes));
    const double chunks = std::ceil(bytes() / chunk);
    const double root = copy_us(bytes()) + 2 * peers * chunks * way.overhead;
    return copy_us(chunk) + way.alpha + std::max(root, take_us(way, bytes(), false));
  }
  const double one = to_root ? take_us(way, bytes(), reduce) : send_us(way, bytes());
  const double outside = world() - request_.placement.most_per_host;
  const double nic_us = outside * bytes() * constants_.nic_us_per_byte;
  const double nic = way.leaves_host ? way.overhead + way.alpha + nic_us : 0;
  const double own = request_.collective == Collective::kBroadcast ? 0 : copy_us(bytes());
  const double busy = peers * (one + lanes_ * way.overhead);  // and an empty frame the other way
  return own + std::max({busy, (peers - 1) * one + message(way, bytes(), reduce), nic});
}

// Dissemination, on one lane: empty frames to ranks 1, 2, 4, ... away; and the handshake, one more
// each way for all but the middle one.
double Pricer::barrier() const {
  const Way& way = widest();
  const int rounds = log2_ceiling(world());
  return rounds * (2 * way.overhead + way.alpha) + 2 * (rounds - 1) * inside_.overhead;
}

double Pricer::span_us() const {
  if (request_.algorithm == Algorithm::kAuto) {
    raise(ErrorKind::kInvalidArgument, "predict_us: auto has no price; name an algorithm");
  }
  if (world() == 1) return copy_us(bytes());
  if (request_.bytes == 0) return barrier();
  const Algorithm algorithm = request_.algorithm;
  const bool by_tree = algorithm == Algorithm::kTree;
  const bool by_ring = algorithm == Algorithm::kRing;
  switch (request_.collective) {
    case Collective::kAllReduce:
      if (by_tree) return tree(flow());
      if (by_ring) return ring_pass(bytes() / world(), true) + ring_pass(bytes() / world(), false);
      if (algorithm == Algorithm::kHalving) return halving_all_reduce();
      if (algorithm == Algorithm::kHierarchical) return hierarchical_all_reduce();
      return direct_all_reduce();
    case Collective::kReduceScatter:
      if (by_ring) return ring_reduce_scatter();
      return copy_us(bytes(), true) + direct_pass(bytes(), true);
    case Collective::kAllGather:
      if (!by_ring) return copy_us(bytes()) + direct_pass(bytes(), false);
      return copy_us(bytes()) + ring_pass(bytes(), false);
    case Collective::kBroadcast:
      if (by_ring) return ring_broadcast();
      return by_tree ? tree(flow()) : rooted(false, false);
    case Collective::kReduce:
      return by_tree ? tree(flow()) : rooted(true, true);
    case Collective::kGather:
      return rooted(true, false);
    case Collective::kScatter:
      return rooted(false, false);
    case Collective::kAllToAll:
      return direct_all_to_all();
    case Collective::kBarrier:
      return barrier();
  }
  raise(ErrorKind::kInvalidArgument, "predict_us: unknown collective");
}

double predict_us(const PriceRequest& request, const Constants& constants) {
  return Pricer(request, constants).price();
}

uint64_t tree_chunk_bytes(const PriceRequest& request, const Constants& constants) {
  return Pricer(request, constants).best_chunk();
}

}  // namespace fastgpu
