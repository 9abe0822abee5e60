#include "plan/cost.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <vector>

#include "base/error.h"

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

constexpr std::string_view kTextForm = "fastgpu-costs-1";

// Every number of a Constants, in the order of its text.
std::array<double*, 11> fields_of(Constants& c) {
  return {&c.same_host.alpha_us,        &c.same_host.beta_us_per_byte,
          &c.same_host.overhead_us,     &c.same_host.cpu_us_per_byte,
          &c.between_hosts.alpha_us,    &c.between_hosts.beta_us_per_byte,
          &c.between_hosts.overhead_us, &c.between_hosts.cpu_us_per_byte,
          &c.nic_us_per_byte,           &c.copy_us_per_byte,
          &c.reduce_us_per_byte};
}

int log2_ceiling(int value) {
  int result = 0;
  while ((int64_t{1} << result) < value) ++result;
  return result;
}

// A way for bytes to go: the link's costs with the host's crowding in them.
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
                    ? std::max(1.0, static_cast<double>(placement.most_per_host) /
                                        static_cast<double>(constants.cores_per_host))
                    : 1.0;
    inside_ = way(constants.same_host, false);
    outside_ = way(constants.between_hosts, true);
  }

  double price() const;
  uint64_t best_chunk() const;

 private:
  Way way(const LinkCosts& link, bool leaves_host) const {
    return {.alpha = link.alpha_us,
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
  double copy_us(double size) const { return size * constants_.copy_us_per_byte * crowding_; }

  // Rounds of one exchange each: with my neighbours in a ring of `ranks`, or over doubled
  // distances.
  double ring_pass(const Way& way, int ranks, double total, int nic_sharers, bool reduce) const;
  double ring_all_reduce(const Way& way, int ranks, double total, int nic_sharers) const;
  double halving_all_reduce() const;
  double direct_pass(const Way& way, int ranks, double size, bool reduce) const;
  double direct_all_reduce() const;
  double tree(bool rises, bool falls) const;
  double hierarchical_all_reduce() const;
  double rooted(bool to_root, bool reduce) const;
  double barrier() const;
  double tree_fill(bool rises, bool falls, double chunk) const;
  double tree_period(bool rises, bool falls, double chunk) const;

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
  const double nic =
      way.leaves_host ? way.overhead + way.alpha + fan.nic_bytes * constants_.nic_us_per_byte : 0;
  return std::max({processor, last, nic});
}

// ranks-1 steps of total/ranks each.
double Pricer::ring_pass(const Way& way, int ranks, double total, int nic_sharers,
                         bool reduce) const {
  const double shard = total / ranks;
  return (ranks - 1) * fan(way, {1, shard, reduce, shard * nic_sharers});
}

double Pricer::ring_all_reduce(const Way& way, int ranks, double total, int nic_sharers) const {
  return ring_pass(way, ranks, total, nic_sharers, true) +
         ring_pass(way, ranks, total, nic_sharers, false);
}

// Every rank to every other at once: `size` to each.
double Pricer::direct_pass(const Way& way, int ranks, double size, bool reduce) const {
  const double mine = request_.placement.most_per_host;
  return fan(way, {ranks - 1, size, reduce, mine * (ranks - mine) * size});
}

// One-shot: everything to everyone. Two-shot: shards to their owners, sums back. The builder takes
// the one with fewer steps while everything together is small; here the cheaper is the bound.
double Pricer::direct_all_reduce() const {
  const double shard = bytes() / world();
  return direct_pass(widest(), world(), shard, true) + direct_pass(widest(), world(), shard, false);
}

// Distances 1, 2, 4, ...; vectors bytes/2, bytes/4, ...; then back. Ranks over a power of two give
// their whole vector to a partner first and get the result from it last.
double Pricer::halving_all_reduce() const {
  int paired = 1;
  while (paired * 2 <= world()) paired *= 2;
  const int sharers = request_.placement.most_per_host;
  double time = 0;
  double size = bytes() / 2;
  for (int distance = 1; distance < paired; distance *= 2) {
    const Way& way = distance < sharers || request_.placement.hosts == 1 ? inside_ : outside_;
    time += fan(way, {1, size, true, size * sharers}) + fan(way, {1, size, false, size * sharers});
    size /= 2;
  }
  if (paired < world()) {
    const Way& way = widest();
    for (const bool reduce : {true, false}) {
      const double take = take_us(way, bytes(), reduce);
      time += way.overhead + way.alpha +
              std::max({bytes() / lanes_ * way.beta, send_us(way, bytes()), take});
    }
  }
  return time;
}

// The first chunk's way from the farthest leaf to the root and back.
double Pricer::tree_fill(bool rises, bool falls, double chunk) const {
  const Placement& placement = request_.placement;
  const int levels = log2_ceiling(placement.world);
  const int inner = std::min(levels, log2_ceiling(placement.most_per_host));
  const int outer = placement.hosts > 1 ? std::max(1, levels - inner) : 0;
  double time = 0;
  for (const bool reduce : {true, false}) {
    if (reduce ? !rises : !falls) continue;
    time += (levels - outer) * fan(inside_, {1, chunk, reduce, chunk}) +
            outer * fan(outside_, {1, chunk, reduce, chunk});
  }
  return time;
}

// Chunks of all lanes follow each other as fast as the busiest rank or wire moves them. A rank is
// inside one of the two trees (two children where the world has them) and a leaf of the other.
double Pricer::tree_period(bool rises, bool falls, double chunk) const {
  const Way& way = widest();
  const double send = way.overhead + chunk * way.cpu;
  const double take = way.overhead + chunk * way.cpu;
  const double take_reduce = way.overhead + chunk * way.take_reduce;
  const int children = world() >= 4 ? 2 : 1;
  const bool has_parent = world() >= 3;
  double inner = 0;
  double leaf = 0;
  if (rises) {
    inner += children * take_reduce + (has_parent ? send : 0);
    leaf += send;
  }
  if (falls) {
    inner += (has_parent ? take : 0) + children * send;
    leaf += take;
  }
  const double first_trees = std::ceil(lanes_ / 2);
  const double processor = first_trees * inner + (lanes_ - first_trees) * leaf;
  const double passes = (rises ? 1 : 0) + (falls ? 1 : 0);
  const double nic = way.leaves_host ? lanes_ * chunk * passes * constants_.nic_us_per_byte : 0;
  return std::max({processor, chunk * way.beta, nic});
}

double Pricer::tree(bool rises, bool falls) const {
  if (world() == 1) return 0;
  const double lane = bytes() / lanes_;
  const double chunk = std::min(lane, static_cast<double>(request_.chunk_bytes));
  const double chunks = chunk > 0 ? std::ceil(lane / chunk) : 1;
  return tree_fill(rises, falls, chunk) + (chunks - 1) * tree_period(rises, falls, chunk);
}

// k chunks cost k*a + (levels + k)*b*bytes/k: least at k = sqrt(levels * bytes * b / a).
uint64_t Pricer::best_chunk() const {
  const Way& way = widest();
  const double per_byte = std::max(way.beta, 2 * (way.cpu + way.take_reduce));
  const double per_step = way.alpha + 2 * way.overhead;
  const double lane = bytes() / lanes_;
  const double levels = 2.0 * std::max(1, log2_ceiling(world()));
  const double ideal = per_byte > 0 ? std::sqrt(lane * per_step / (levels * per_byte)) : lane;
  uint64_t chunk = uint64_t{4} << 10;
  while (chunk < uint64_t{1} << 20 && static_cast<double>(chunk) * 1.5 < ideal) chunk *= 2;
  return chunk;
}

// Reduce-scatter inside the hosts, all-reduce of each shard between them, all-gather inside.
double Pricer::hierarchical_all_reduce() const {
  const Placement& placement = request_.placement;
  const int sharers = placement.most_per_host;
  const double shard = bytes() / placement.fewest_per_host;
  const double inside = bytes() / sharers;
  return fan(inside_, {sharers - 1, inside, true, 0}) +
         ring_all_reduce(outside_, placement.hosts, shard, sharers) +
         fan(inside_, {sharers - 1, inside, false, 0});
}

// The root serves the others one after the other, or takes from them.
double Pricer::rooted(bool to_root, bool reduce) const {
  if (world() == 1) return 0;
  const Way& way = widest();
  const int peers = world() - 1;
  const double send = send_us(way, bytes());
  const double take = take_us(way, bytes(), reduce);
  const double outside = world() - request_.placement.most_per_host;
  const double nic = outside * bytes() * constants_.nic_us_per_byte;
  const double busy = to_root ? send + peers * take : peers * send + take;
  return way.alpha + std::max({busy, bytes() / lanes_ * way.beta, nic});
}

// Dissemination: one exchange of empty frames with ranks 1, 2, 4, ... away.
double Pricer::barrier() const { return log2_ceiling(world()) * fan(widest(), {1, 0, false, 0}); }

double Pricer::price() const {
  if (request_.algorithm == Algorithm::kAuto) {
    raise(ErrorKind::kInvalidArgument, "predict_us: auto has no price; name an algorithm");
  }
  const Algorithm algorithm = request_.algorithm;
  const bool by_tree = algorithm == Algorithm::kTree;
  const bool by_ring = algorithm == Algorithm::kRing;
  const double total = bytes() * world();
  switch (request_.collective) {
    case Collective::kAllReduce:
      if (by_tree) return tree(true, true);
      if (by_ring) return ring_all_reduce(widest(), world(), bytes(), 1);
      if (algorithm == Algorithm::kHalving) return halving_all_reduce();
      if (algorithm == Algorithm::kHierarchical) return hierarchical_all_reduce();
      return direct_all_reduce();
    case Collective::kReduceScatter:
      if (by_ring) return ring_pass(widest(), world(), total, 1, true);
      return direct_pass(widest(), world(), bytes(), true);
    case Collective::kAllGather:
      if (by_ring) return ring_pass(widest(), world(), total, 1, false);
      return direct_pass(widest(), world(), bytes(), false);
    case Collective::kBroadcast:
      return by_tree ? tree(false, true) : rooted(false, false);
    case Collective::kReduce:
      return by_tree ? tree(true, false) : rooted(true, true);
    case Collective::kGather:
      return rooted(true, false);
    case Collective::kScatter:
      return rooted(false, false);
    case Collective::kAllToAll:
      return direct_pass(widest(), world(), bytes(), false);
    case Collective::kBarrier:
      return barrier();
  }
  raise(ErrorKind::kInvalidArgument, "predict_us: unknown collective");
}

}  // namespace

std::string to_text(const Constants& constants) {
  Constants copy = constants;
  std::string text(kTextForm);
  std::array<char, 32> digits{};
  for (const double* field : fields_of(copy)) {
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), *field).ptr;
    text += ' ';
    text.append(digits.data(), end);
  }
  return text + ' ' + std::to_string(constants.cores_per_host);
}

Constants constants_from_text(std::string_view text) {
  const auto refuse = [&] {
    raise(ErrorKind::kInvalidArgument,
          "not the costs of links: '" + std::string(text.substr(0, 80)) + "'");
  };
  Constants constants;
  if (!text.starts_with(kTextForm)) refuse();
  const char* at = text.data() + kTextForm.size();
  const char* const end = text.data() + text.size();
  const auto read = [&](auto& value) {
    if (at == end || *at != ' ') refuse();
    const auto result = std::from_chars(at + 1, end, value);
    if (result.ec != std::errc() || !(value >= 0) || !std::isfinite(static_cast<double>(value))) {
      refuse();
    }
    at = result.ptr;
  };
  for (double* field : fields_of(constants)) read(*field);
  read(constants.cores_per_host);
  if (at != end) refuse();
  return constants;
}

Placement placement_of(int world, std::span<const int> host_of) {
  if (host_of.empty()) {
    return {.world = world, .hosts = 1, .most_per_host = world, .fewest_per_host = world};
  }
  const int hosts = 1 + *std::max_element(host_of.begin(), host_of.end());
  std::vector<int> ranks(static_cast<std::size_t>(hosts));
  for (const int host : host_of) ++ranks[static_cast<std::size_t>(host)];
  return {.world = world,
          .hosts = hosts,
          .most_per_host = *std::max_element(ranks.begin(), ranks.end()),
          .fewest_per_host = *std::min_element(ranks.begin(), ranks.end())};
}

double predict_us(const PriceRequest& request, const Constants& constants) {
  return Pricer(request, constants).price();
}

uint64_t tree_chunk_bytes(const PriceRequest& request, const Constants& constants) {
  return Pricer(request, constants).best_chunk();
}

}  // namespace fastgpu
