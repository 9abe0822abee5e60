// The closed forms of cost.h over one call: prices of passes, fans and hops that they are made of.
// Ownership: looks at its request and constants. Thread safety: const, lives inside one call.
#pragma once

#include <algorithm>
#include <bit>

#include "plan/cost.h"

namespace fastgpu {

inline int log2_floor(int value) {
  return static_cast<int>(std::bit_width(static_cast<unsigned>(value))) - 1;
}

inline int log2_ceiling(int value) {
  return static_cast<int>(std::bit_width(static_cast<unsigned>(value - 1)));
}

// A way for bytes to go.
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
    const double cores = placement.engine_threads > 1 && constants.cores_per_host > 0
                             ? constants.cores_per_host / std::max(1, placement.most_per_machine)
                             : placement.engine_threads;
    hands_ = std::max(1.0, std::min({lanes_, cores, 1.0 * placement.engine_threads}));
    inside_ = way(constants.same_host, false);
    outside_ = way(constants.between_hosts, true);
  }

  double price() const {
    const double span = span_us();
    return crowding_ > 1 && world() > 1 ? oversubscribed(span) : span;
  }
  uint64_t best_chunk() const;

 private:
  Way way(const LinkCosts& link, bool leaves_host) const {
    return {.alpha = link.alpha_us,
            .beta = link.beta_us_per_byte,
            .overhead = link.overhead_us,
            .cpu = link.cpu_us_per_byte / hands_,
            .take_reduce = (link.cpu_us_per_byte + constants_.reduce_us_per_byte) / hands_,
            .leaves_host = leaves_host};
  }

  // The slowest way there is in this world.
  const Way& widest() const { return request_.placement.hosts > 1 ? outside_ : inside_; }
  bool is_staged_broadcast() const {
    return request_.collective == Collective::kBroadcast &&
           request_.algorithm == Algorithm::kDirect && request_.shots == 2;
  }
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
    return size * per_byte / hands_;
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
  // As if every rank had a core.
  double span_us() const;

  // What the ranks of the world do together. A turn is what a chain of frames waits for while all
  // ranks of a machine look whether they can go on; where everyone has frames to move, it comes
  // after half of one in the middle.
  struct Work {
    double frames = 0;   // each at both ends
    double bytes = 0;    // sent, and received
    double reduced = 0;  // bytes
    double copied = 0;   // bytes
    double outside = 0;  // the share of frames and bytes that goes between hosts
    double turns = 0;
    // All do alike: in step, where memory is shared, so that the fullest core keeps everyone
    // waiting; over sockets, which hold more, ranks run ahead.
    bool even = false;
  };
  double oversubscribed(double span) const;
  double turn_us() const;
  Work work_of_all() const;
  Work all_reduce_work() const;
  Work rooted_work() const;

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
  Work tree_work(const Flow& flow) const;

  const PriceRequest& request_;
  const Constants& constants_;
  double lanes_;
  double crowding_ = 1;
  double hands_ = 1;  // threads of a rank that move bytes side by side, each its lanes
  Way inside_;
  Way outside_;
};

}  // namespace fastgpu
