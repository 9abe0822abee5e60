#include "plan/cost.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "plan/direct.h"

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

int log2_floor(int value) {
  return static_cast<int>(std::bit_width(static_cast<unsigned>(value))) - 1;
}
int log2_ceiling(int value) {
  return static_cast<int>(std::bit_width(static_cast<unsigned>(value - 1)));
}

constexpr double kChannelBytes = 1 << 20;

// A way for bytes to go: the link's costs with the crowding in them. Where ranks outnumber cores,
// bytes take their processors' time in proportion, and a frame waits for its receiver's turn.
struct Way {
  double alpha;
  double beta;
  double overhead;
  double cpu;
  double take_reduce;  // processor time of a byte received and reduced
  bool leaves_host;
};

class Pricer {
 public:
  Pricer(const PriceRequest& request, const Constants& constants)
      : request_(request), constants_(constants), lanes_(std::max(1, request.lanes)) {
    const Placement& placement = request.placement;
    crowding_ = constants.cores_per_host > 0
                    ? std::max(1.0, static_cast<double>(placement.most_per_machine) /
                                        static_cast<double>(constants.cores_per_host))
                    : 1.0;
    inside_ = way(constants.same_host, false);
    outside_ = way(constants.between_hosts, true);
  }

  double price() const;
  uint64_t best_chunk() const;

 private:
  Way way(const LinkCosts& link, bool leaves_host) const {
    const double turns = crowding_ > 1 ? crowding_ * constants_.switch_us : 0;
    return {.alpha = link.alpha_us + turns,
            .beta = link.beta_us_per_byte,
            .overhead = link.overhead_us * crowding_,
            .cpu = link.cpu_us_per_byte * crowding_,
            .take_reduce = (link.cpu_us_per_byte + constants_.reduce_us_per_byte) * crowding_,
            .leaves_host = leaves_host};
  }

  // The slowest way there is in this world.
  const Way& widest() const { return request_.placement.hosts > 1 ? outside_ : inside_; }
  double bytes() const { return static_cast<double>(request_.bytes); }
  int world() const { return request_.placement.world; }

  double send_us(const Way& way, double size) const {
    return lanes_ * way.overhead + size * way.cpu;
  }
  double take_us(const Way& way, double size, bool reduce) const {
    return lanes_ * way.overhead + size * (reduce ? way.take_reduce : way.cpu);
  }

  // Every rank sends `size` to each of `peers` others and takes as much from each; `nic_bytes` of
  // all this leave one host.
  struct Fan {
    int peers;
    double size;
    bool reduce;
    double nic_bytes;
  };
  double fan(const Way& way, const Fan& fan) const;
  // One way only; of all lanes, and of one lane by itself.
  double message(const Way& way, double size, bool reduce) const;
  double hop(const Way& way, double size, bool reduce) const {
    const double cpu = reduce ? way.take_reduce : way.cpu;
    return way.overhead + way.alpha + std::max(size * way.beta, way.overhead + size * cpu);
  }
  double copy_us(double size, bool reduce = false) const {
    const double per_byte =
        constants_.copy_us_per_byte + (reduce ? constants_.reduce_us_per_byte : 0);
    return size * per_byte * crowding_;
  }
  // Between ranks `distance` apart.
  const Way& way_over(int distance) const {
    const bool inside =
        request_.placement.hosts == 1 || distance < request_.placement.most_per_host;
    return inside ? inside_ : outside_;
  }

  double ring_hop(double shard, bool reduce) const;
  double ring_pass(double shard, bool reduce) const {
    return (world() - 1) * ring_hop(shard, reduce);
  }
  double hosts_ring_pass(double total, bool reduce) const;
  double ring_reduce_scatter() const;
  double ring_broadcast() const;
  double direct_pass(double size, bool reduce) const;
  double direct_all_reduce() const;
  double direct_all_to_all() const;
  double halving_all_reduce() const;
  double hierarchical_all_reduce() const;
  double rooted(bool to_root, bool reduce) const;
  double barrier() const;

  // Chunks that rise, fall, or both, in trees of `height` hops.
  struct Flow {
    bool rises;
    bool falls;
    int height;
    int children;  // of an inner rank
    int parents;
  };
  double tree(const Flow& flow) const;
  double tree_hops(const Flow& flow, double chunk, bool reduce) const;
  double tree_period(const Flow& flow, double chunk) const;
  Flow flow() const;

  const PriceRequest& request_;
  const Constants& constants_;
  double lanes_;
  double crowding_ = 1;
  Way inside_;
  Way outside_;
};

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
  return std::max(waits * (last + take - last_take), nic + take - last_take);
}

// Small parts go all at once, of large ones a few turns.
double Pricer::direct_all_to_all() const {
  const bool prompt = bytes() * world() <= kPromptBytes;
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

// k chunks cost k*a + (levels + k)*b*bytes/k: least at k = sqrt(levels * bytes * b / a).
uint64_t Pricer::best_chunk() const {
  const Way& way = widest();
  const double per_byte = std::max(way.beta, 2 * (way.cpu + way.take_reduce));
  const double per_step = way.alpha + 2 * way.overhead;
  const double lane = bytes() / lanes_;
  const double levels = 2.0 * std::max(1, log2_floor(world()));
  const double ideal = per_byte > 0 ? std::sqrt(lane * per_step / (levels * per_byte)) : lane;
  uint64_t chunk = uint64_t{4} << 10;
  while (chunk < uint64_t{1} << 20 && static_cast<double>(chunk) * 1.5 < ideal) chunk *= 2;
  return chunk;
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

double Pricer::price() const {
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

}  // namespace

double predict_us(const PriceRequest& request, const Constants& constants) {
  return Pricer(request, constants).price();
}

uint64_t tree_chunk_bytes(const PriceRequest& request, const Constants& constants) {
  return Pricer(request, constants).best_chunk();
}

}  // namespace fastgpu
