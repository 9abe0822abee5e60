// Profiles against the numbers that the papers give for each algorithm, for worlds to 33 and
// beyond.
#include <bit>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "check.h"
#include "plan/cost/profile.h"

using namespace fastgpu;

namespace {

constexpr int kMostRanks = 33;

Profile profile(Collective collective, Algorithm algorithm, int world, int shots = 0,
                int ranks_per_host = 0, int lanes = 1) {
  std::vector<int> host_of;
  for (int rank = 0; ranks_per_host > 0 && rank < world; ++rank) {
    host_of.push_back(rank / ranks_per_host);
  }
  return profile_of({.collective = collective,
                     .algorithm = algorithm,
                     .shots = shots,
                     .lanes = lanes,
                     .placement = placement_of(world, host_of)});
}

Profile all_reduce(Algorithm algorithm, int world, int shots = 0, int lanes = 1) {
  return profile(Collective::kAllReduce, algorithm, world, shots, 0, lanes);
}

int log2_floor(int value) {
  return static_cast<int>(std::bit_width(static_cast<unsigned>(value))) - 1;
}

void check_near(double found, double expected, int world, const char* what) {
  if (std::abs(found - expected) <= 1e-9 * std::max(1.0, std::abs(expected))) return;
  test::fail(__FILE__, __LINE__,
             std::string(what) + " of " + std::to_string(world) +
                 " ranks: " + std::to_string(found) + ", not " + std::to_string(expected));
}

// Bytes of one rank, as shares of the call's.
struct Expected {
  double sent;
  double received;
  double reduced;
  double copied;
};

void check_rank(const Profile& profile, std::size_t index, int world, const Expected& expected) {
  const RankWork& work = profile.ranks[index];
  check_near(work.same_host.bytes_sent, expected.sent, world, "bytes sent");
  check_near(work.same_host.bytes_received, expected.received, world, "bytes received");
  check_near(work.bytes_reduced, expected.reduced, world, "bytes reduced");
  check_near(work.bytes_copied, expected.copied, world, "bytes copied");
}

double total_sent(const Profile& profile) {
  double sent = 0;
  double received = 0;
  for (std::size_t i = 0; i < profile.ranks.size(); ++i) {
    const RankWork& work = profile.ranks[i];
    sent += profile.weights[i] * (work.same_host.bytes_sent + work.between_hosts.bytes_sent);
    received +=
        profile.weights[i] * (work.same_host.bytes_received + work.between_hosts.bytes_received);
  }
  CHECK(std::abs(sent - received) <= 1e-9 * sent);
  return sent;
}

}  // namespace

// The own shard is set aside and added: two copies that a merged sum does not make.
TEST(merged_sums_copy_nothing) {
  for (int world = 2; world <= 8; ++world) {
    ProfileRequest request{.collective = Collective::kAllReduce,
                           .algorithm = Algorithm::kDirect,
                           .shots = 2,
                           .placement = placement_of(world, {})};
    const double shard = 1.0 / world;
    const Profile apart = profile_of(request);
    request.merges_sums = true;
    const Profile merged = profile_of(request);
    for (std::size_t i = 0; i < merged.ranks.size(); ++i) {
      const RankWork& work = merged.ranks[i];
      check_near(work.same_host.bytes_received, 2 * (1 - shard), world, "bytes received");
      check_near(work.bytes_copied, 0, world, "bytes copied");
      CHECK(apart.ranks[i].bytes_copied >= work.bytes_copied);
    }
    CHECK_EQ(merged.frames, apart.frames);
    CHECK_EQ(merged.rounds, apart.rounds);
  }
}

TEST(ring_all_reduce) {
  for (int n = 2; n <= kMostRanks; ++n) {
    const Profile ring = all_reduce(Algorithm::kRing, n);
    CHECK_EQ(ring.rounds, 2 * (n - 1));
    CHECK(!ring.pipelined);
    CHECK_EQ(ring.ranks.size(), static_cast<std::size_t>(n));
    const double moved = 2.0 * (n - 1) / n;
    for (std::size_t rank = 0; rank < ring.ranks.size(); ++rank) {
      check_rank(ring, rank, n, {moved, moved, moved / 2, 0});
      // And the handshake, to the rank that it hears from.
      CHECK_EQ(ring.ranks[rank].same_host.frames_sent, 2 * (n - 1) + (n > 2 ? 1 : 0));
      CHECK_EQ(ring.ranks[rank].payloads_received, 2 * (n - 1));
    }
    check_near(ring.busiest_link[0], moved, n, "busiest link");
  }
}

TEST(one_shot_all_reduce) {
  for (int n = 2; n <= kMostRanks; ++n) {
    const Profile direct = all_reduce(Algorithm::kDirect, n, 1);
    CHECK_EQ(direct.rounds, 1);
    const double others = n - 1;
    check_rank(direct, 0, n, {others, others, others, 1});
    for (std::size_t rank = 1; rank < direct.ranks.size(); ++rank) {
      check_rank(direct, rank, n, {others, others, others, 2});
      CHECK_EQ(direct.ranks[rank].same_host.frames_sent, n - 1);
    }
  }
}

TEST(two_shot_all_reduce) {
  for (int n = 2; n <= kMostRanks; ++n) {
    const Profile direct = all_reduce(Algorithm::kDirect, n, 2);
    CHECK_EQ(direct.rounds, 2);
    const double moved = 2.0 * (n - 1) / n;
    check_rank(direct, 0, n, {moved, moved, moved / 2, 0});
    for (std::size_t rank = 1; rank < direct.ranks.size(); ++rank) {
      check_rank(direct, rank, n, {moved, moved, moved / 2, 2.0 / n});
      CHECK_EQ(direct.ranks[rank].same_host.frames_sent, 2 * (n - 1));
    }
  }
}

TEST(halving_all_reduce) {
  for (int n = 2; n <= kMostRanks; ++n) {
    const Profile halving = all_reduce(Algorithm::kHalving, n);
    const int extra = n - static_cast<int>(std::bit_floor(static_cast<unsigned>(n)));
    CHECK_EQ(halving.rounds, 2 * log2_floor(n) + (extra > 0 ? 2 : 0));
    check_near(total_sent(halving), 2.0 * (n - 1), n, "bytes sent by all");
    if (extra > 0) continue;
    const double moved = 2.0 * (n - 1) / n;
    for (std::size_t rank = 0; rank < halving.ranks.size(); ++rank) {
      check_rank(halving, rank, n, {moved, moved, moved / 2, 0});
      CHECK_EQ(halving.ranks[rank].same_host.frames_sent, 2 * log2_floor(n));
    }
  }
}

// One chunk, on one tree and on both: an inner rank of one tree is a leaf of the other.
TEST(tree_all_reduce) {
  for (int n = 2; n <= kMostRanks; ++n) {
    const Profile one = all_reduce(Algorithm::kTree, n);
    CHECK(one.pipelined);
    CHECK_EQ(one.rounds, 2 * log2_floor(n));
    check_near(total_sent(one), 2.0 * (n - 1), n, "bytes sent by all");
    const Profile both = all_reduce(Algorithm::kTree, n, 0, 2);
    check_near(total_sent(both), 2.0 * (n - 1), n, "bytes sent by all on two trees");
    if (n < 4) continue;
    const auto most_sent = [](const Profile& profile) {
      double most = 0;
      for (const RankWork& work : profile.ranks) {
        most = std::max(most, work.same_host.bytes_sent);
      }
      return most;
    };
    CHECK_EQ(most_sent(one), 3);  // one up, two down
    CHECK(most_sent(both) <= 2);
  }
}

TEST(hierarchical_all_reduce) {
  for (int hosts = 2; hosts <= 8; ++hosts) {
    for (int locals = 2; locals <= 4; ++locals) {
      const int n = hosts * locals;
      const Profile found = profile(Collective::kAllReduce, Algorithm::kHierarchical, n, 0, locals);
      CHECK_EQ(found.rounds, 2 + 2 * (hosts - 1));
      const double crossing = 2.0 * (hosts - 1) / hosts;
      for (const RankWork& work : found.ranks) {
        check_near(work.same_host.bytes_sent, 2.0 * (locals - 1) / locals, n, "bytes inside");
        check_near(work.between_hosts.bytes_sent, crossing / locals, n, "bytes between hosts");
        check_near(work.interface_sharing_out, locals, n, "sharers of an interface");
        check_near(work.interface_sharing_in, locals, n, "sharers of an interface");
      }
    }
  }
}

TEST(reduce_scatter_and_all_gather) {
  for (int n = 2; n <= kMostRanks; ++n) {
    const double others = n - 1;
    const Profile ring = profile(Collective::kReduceScatter, Algorithm::kRing, n);
    CHECK_EQ(ring.rounds, n - 1);
    check_rank(ring, 1, n, {others, others, others, others});
    const Profile direct = profile(Collective::kReduceScatter, Algorithm::kDirect, n);
    CHECK_EQ(direct.rounds, 1);
    check_rank(direct, 1, n, {others, others, others, 1});
    const Profile round = profile(Collective::kAllGather, Algorithm::kRing, n);
    CHECK_EQ(round.rounds, n - 1);
    check_rank(round, 1, n, {others, others, 0, 1});
    const Profile at_once = profile(Collective::kAllGather, Algorithm::kDirect, n);
    CHECK_EQ(at_once.rounds, 1);
    check_rank(at_once, 1, n, {others, others, 0, 1});
  }
}

TEST(broadcast) {
  for (int n = 2; n <= kMostRanks; ++n) {
    const double others = n - 1;
    const Profile tree = profile(Collective::kBroadcast, Algorithm::kTree, n);
    CHECK_EQ(tree.rounds, 1 + log2_floor(n - 1));
    CHECK(tree.pipelined);
    check_near(total_sent(tree), others, n, "bytes sent by all");
    const Profile direct = profile(Collective::kBroadcast, Algorithm::kDirect, n);
    CHECK_EQ(direct.rounds, 1);
    CHECK(!direct.pipelined);
    check_rank(direct, 0, n, {others, 0, 0, 0});
    check_rank(direct, 1, n, {0, 1, 0, 0});
    const Profile ring = profile(Collective::kBroadcast, Algorithm::kRing, n);
    CHECK_EQ(ring.rounds, n - 1);
    check_rank(ring, 0, n, {2 * others / n, 0, 0, 0});
    const Profile staged = profile(Collective::kBroadcast, Algorithm::kDirect, n, 2);
    CHECK_EQ(staged.rounds, 1);
    CHECK(staged.pipelined);
    check_rank(staged, 0, n, {others, 0, 0, 1});
    check_near(staged.ranks[0].bytes_read_in_place, others, n, "bytes read in place");
  }
}

TEST(rooted_collectives_and_all_to_all) {
  for (int n = 2; n <= kMostRanks; ++n) {
    const double others = n - 1;
    const Profile tree = profile(Collective::kReduce, Algorithm::kTree, n);
    CHECK_EQ(tree.rounds, 1 + log2_floor(n - 1));
    check_near(total_sent(tree), others, n, "bytes sent by all");
    const Profile reduce = profile(Collective::kReduce, Algorithm::kDirect, n);
    CHECK_EQ(reduce.rounds, 1);
    check_rank(reduce, 0, n, {0, others, others, 1});
    const Profile gather = profile(Collective::kGather, Algorithm::kDirect, n);
    CHECK_EQ(gather.rounds, 1);
    check_rank(gather, 0, n, {0, others, 0, 1});
    const Profile scatter = profile(Collective::kScatter, Algorithm::kDirect, n);
    CHECK_EQ(scatter.rounds, 1);
    check_rank(scatter, 0, n, {others, 0, 0, 1});
    const Profile exchange = profile(Collective::kAllToAll, Algorithm::kDirect, n);
    CHECK_EQ(exchange.rounds, 1);
    check_rank(exchange, 1, n, {others, others, 0, 1});
    const Profile barrier = profile(Collective::kBarrier, Algorithm::kDirect, n);
    CHECK_EQ(barrier.rounds, 1 + log2_floor(n - 1));
    check_rank(barrier, 1, n, {0, 0, 0, 0});
  }
}

// A few ranks stand for all where all would take too long.
TEST(samples_of_large_worlds_count_alike) {
  for (const int n : {100, 200, 1000}) {
    const Profile ring = all_reduce(Algorithm::kRing, n);
    CHECK(!ring.complete);
    CHECK(ring.ranks.size() <= 3);
    CHECK_EQ(std::accumulate(ring.weights.begin(), ring.weights.end(), 0.0), n);
    CHECK_EQ(ring.rounds, 2 * (n - 1));
    check_near(total_sent(ring), 2.0 * (n - 1), n, "bytes sent by all");
    const Profile two_shot = all_reduce(Algorithm::kDirect, n, 2);
    CHECK_EQ(two_shot.rounds, 2);
    check_near(total_sent(two_shot), 2.0 * (n - 1), n, "bytes sent by all");
    const Profile tree = all_reduce(Algorithm::kTree, n);
    CHECK(tree.complete);
    CHECK_EQ(tree.rounds, 2 * log2_floor(n));
  }
  const Profile halving = all_reduce(Algorithm::kHalving, 1024);
  CHECK(!halving.complete);
  CHECK_EQ(halving.rounds, 20);
  const Profile two_level = profile(Collective::kAllReduce, Algorithm::kHierarchical, 1024, 0, 8);
  CHECK(!two_level.complete);
  CHECK_EQ(two_level.rounds, 2 + 2 * 127);
  check_near(two_level.ranks[0].interface_sharing_out, 8, 1024, "sharers of an interface");
}

TEST(one_rank_only_copies) {
  const Profile alone = profile(Collective::kAllGather, Algorithm::kRing, 1);
  CHECK_EQ(alone.rounds, 0);
  check_rank(alone, 0, 1, {0, 0, 0, 1});
}
