// Proves every builder over a sweep of worlds, counts, lanes, capacities and element sizes, and
// compares bytes and rounds with the closed forms.
#include <algorithm>
#include <array>
#include <bit>

#include "base/error.h"
#include "check.h"
#include "schedule_cases.h"

namespace fastgpu::test {
namespace {

void check_proof(const Proof& proof) { CHECK_EQ(proof.counterexample, ""); }

constexpr std::array kCapacities{0, 1, 4};
constexpr std::array<uint32_t, 3> kElementSizes{1, 4, 16};

// Proves one case of the sweep. The parameters that the loops do not set depend on its number.
void prove(PlanRequest request, uint64_t number) {
  if (number % kStride != 0) return;
  const uint64_t draw = number / kStride;
  const std::vector<int> hosts =
      uneven_hosts(request.world, static_cast<int>(1 + draw % 5), draw % 7 == 0);
  if (draw % 6 != 0) request.host_of = hosts;
  request.element_size = kElementSizes[draw % 3];
  request.chunk_bytes = draw % 4 == 0 ? 7 : 64 + draw % 200;
  request.block_bytes = draw % 3 == 0 ? 0 : 7 + draw % 900;
  request.shots = static_cast<int>(draw / 5 % 3);
  request.root = static_cast<int>(draw % static_cast<uint64_t>(request.world));
  const std::vector<uint64_t> counts = uneven_counts(request.world, request.count);
  VerifyOptions options{kCapacities[draw / 3 % 3], number + 1, {}};
  if (request.collective == Collective::kAllToAll && draw % 3 != 0) options.all_counts = counts;
  check_proof(verify(request, options));
}

void sweep(Collective collective) {
  uint64_t number = 0;
  for (const Algorithm algorithm : algorithms_of(collective)) {
    for (int world = 1; world <= 33; ++world) {
      const auto n = static_cast<uint64_t>(world);
      for (const uint64_t count : {uint64_t{0}, uint64_t{1}, n - 1, 2 * n + 1, uint64_t{999}}) {
        for (int lanes = 1; lanes <= 4; ++lanes) {
          PlanRequest request = request_of(collective, algorithm, world, count);
          request.lanes = lanes;
          prove(request, ++number);
        }
      }
    }
    for (const int world : {40, 57, 64, 65, 96, 127, 128}) {
      PlanRequest request = request_of(collective, algorithm, world, number % 2 == 0 ? 61 : 1031);
      request.lanes = 1 + static_cast<int>(number % 2);
      prove(request, ++number);
    }
  }
}

}  // namespace

TEST(all_reduce) { sweep(Collective::kAllReduce); }
TEST(reduce_scatter) { sweep(Collective::kReduceScatter); }
TEST(all_gather) { sweep(Collective::kAllGather); }
TEST(broadcast) { sweep(Collective::kBroadcast); }
TEST(reduce) { sweep(Collective::kReduce); }
TEST(gather) { sweep(Collective::kGather); }
TEST(scatter) { sweep(Collective::kScatter); }
TEST(all_to_all) { sweep(Collective::kAllToAll); }
TEST(barrier) { sweep(Collective::kBarrier); }

// Large parts begin at cache lines, and direct takes two shots.
TEST(large_counts) {
  for_each_builder([](Collective collective, Algorithm algorithm) {
    for (const int world : {2, 3, 8, 13}) {
      for (int lanes = 1; lanes <= 3; ++lanes) {
        PlanRequest request = request_of(collective, algorithm, world, 1'000'003);
        const std::vector<int> hosts = uneven_hosts(world, 3, false);
        request.host_of = hosts;
        request.element_size = 4;
        request.lanes = lanes;
        request.root = world - 1;
        check_proof(verify(request, {lanes - 1, static_cast<uint64_t>(world), {}}));
      }
    }
  });
}

// A frame holds at most kMaxFrameBytes; sender and receiver cut alike.
TEST(frames_beyond_the_limit) {
  for_each_builder([](Collective collective, Algorithm algorithm) {
    PlanRequest request = request_of(collective, algorithm, 2, 5 * kMaxFrameBytes / 16 + 3);
    request.element_size = 16;
    request.chunk_bytes = uint64_t{1} << 40;
    check_proof(verify(request));
  });
}

TEST(same_result_whatever_the_poll_order) {
  for_each_builder([](Collective collective, Algorithm algorithm) {
    PlanRequest request = request_of(collective, algorithm, 11, 97);
    const std::vector<int> hosts = uneven_hosts(11, 4, false);
    request.host_of = hosts;
    request.lanes = 2;
    request.chunk_bytes = 8;
    const Proof first = verify(request);
    check_proof(first);
    for (uint64_t seed = 2; seed < 12; ++seed) {
      for (const int capacity : kCapacities) {
        const Proof proof = verify(request, {capacity, seed, {}});
        check_proof(proof);
        CHECK(proof.orders == first.orders);
        CHECK_EQ(proof.rounds, first.rounds);
      }
    }
  });
}

// Bytes and rounds as the comments of the builders count them. Here n divides S.

namespace {

constexpr uint64_t kBytes = uint64_t{1} << 20;  // S, or the size of one rank's part

Proof proof_of(Collective collective, Algorithm algorithm, int world, uint64_t bytes) {
  PlanRequest request = request_of(collective, algorithm, world, bytes);
  request.chunk_bytes = bytes;
  request.lanes = 2;
  const Proof proof = verify(request);
  check_proof(proof);
  return proof;
}

void check_every_rank_sends(const Proof& proof, uint64_t bytes) {
  for (const uint64_t sent : proof.bytes_sent) CHECK_EQ(sent, bytes);
}

int log2_floor(uint64_t value) { return static_cast<int>(std::bit_width(value)) - 1; }

uint64_t sum(const std::vector<uint64_t>& values) {
  uint64_t total = 0;
  for (const uint64_t value : values) total += value;
  return total;
}

uint64_t largest(const std::vector<uint64_t>& values) {
  return *std::max_element(values.begin(), values.end());
}

}  // namespace

TEST(closed_forms_of_all_reduce) {
  for (const int world : {2, 4, 8, 16}) {
    const auto n = static_cast<uint64_t>(world);
    const int log = log2_floor(n);
    const Proof ring = proof_of(Collective::kAllReduce, Algorithm::kRing, world, kBytes);
    check_every_rank_sends(ring, 2 * (n - 1) * kBytes / n);
    CHECK_EQ(ring.rounds, 2 * (world - 1));
    for (const uint64_t steps : ring.steps) {
      CHECK_EQ(steps, 2 * (4 * (n - 1) + (world > 2 ? 2 : 0)));  // and the handshake
    }

    const Proof two_shot = proof_of(Collective::kAllReduce, Algorithm::kDirect, world, kBytes);
    check_every_rank_sends(two_shot, 2 * (n - 1) * kBytes / n);
    CHECK_EQ(two_shot.rounds, 2);

    const Proof one_shot = proof_of(Collective::kAllReduce, Algorithm::kDirect, world, 1024);
    check_every_rank_sends(one_shot, (n - 1) * 1024);
    CHECK_EQ(one_shot.rounds, 1);

    const Proof halving = proof_of(Collective::kAllReduce, Algorithm::kHalving, world, kBytes);
    check_every_rank_sends(halving, 2 * (n - 1) * kBytes / n);
    CHECK_EQ(halving.rounds, 2 * log);

    const Proof tree = proof_of(Collective::kAllReduce, Algorithm::kTree, world, kBytes);
    CHECK_EQ(sum(tree.bytes_sent), 2 * (n - 1) * kBytes);
    CHECK(largest(tree.bytes_sent) <= 2 * kBytes);  // inner in one tree only
    CHECK(tree.rounds <= 2 * log);
  }
}

TEST(shots_may_be_told) {
  for (const uint64_t bytes : {uint64_t{64}, kBytes}) {
    for (const int shots : {1, 2}) {
      PlanRequest request = request_of(Collective::kAllReduce, Algorithm::kDirect, 8, bytes);
      request.shots = shots;
      const Proof proof = verify(request);
      check_proof(proof);
      CHECK_EQ(proof.rounds, shots);
      check_every_rank_sends(proof, shots == 1 ? 7 * bytes : 2 * 7 * bytes / 8);
    }
  }
  PlanRequest request = request_of(Collective::kAllReduce, Algorithm::kDirect, 8, 64);
  request.shots = 3;
  CHECK_THROWS(build(request), InvalidArgumentError, "1 or 2 shots");
}

TEST(closed_forms_of_halving_in_odd_worlds) {
  for (const int world : {3, 5, 6, 7, 9, 12, 33}) {
    const auto core = std::bit_floor(static_cast<uint64_t>(world));
    const Proof proof = proof_of(Collective::kAllReduce, Algorithm::kHalving, world, kBytes);
    CHECK_EQ(largest(proof.bytes_sent), 2 * (core - 1) * kBytes / core + kBytes);
    CHECK_EQ(proof.rounds, 2 * log2_floor(core) + 2);
  }
}

TEST(closed_forms_of_hierarchical) {
  for (const uint64_t hosts : {2, 4, 8}) {
    for (const uint64_t locals : {1, 2, 4}) {
      std::vector<int> host_of;
      for (uint64_t rank = 0; rank < hosts * locals; ++rank) {
        host_of.push_back(static_cast<int>(rank / locals));
      }
      PlanRequest request = request_of(Collective::kAllReduce, Algorithm::kHierarchical,
                                       static_cast<int>(hosts * locals), kBytes);
      request.host_of = host_of;
      const Proof proof = verify(request);
      check_proof(proof);
      check_every_rank_sends(
          proof, 2 * (locals - 1) * kBytes / locals + 2 * (hosts - 1) * kBytes / hosts / locals);
      CHECK_EQ(proof.rounds, static_cast<int>((locals > 1 ? 2 : 0) + 2 * (hosts - 1)));
    }
  }
}

TEST(closed_forms_of_the_halves) {
  for (const int world : {2, 3, 4, 7, 8}) {
    const auto n = static_cast<uint64_t>(world);
    for (const Collective collective : {Collective::kReduceScatter, Collective::kAllGather}) {
      const Proof ring = proof_of(collective, Algorithm::kRing, world, kBytes);
      check_every_rank_sends(ring, (n - 1) * kBytes);
      CHECK_EQ(ring.rounds, world - 1);
      const Proof direct = proof_of(collective, Algorithm::kDirect, world, kBytes);
      check_every_rank_sends(direct, (n - 1) * kBytes);
      CHECK_EQ(direct.rounds, 1);
    }
    const Proof all_to_all = proof_of(Collective::kAllToAll, Algorithm::kDirect, world, kBytes);
    check_every_rank_sends(all_to_all, (n - 1) * kBytes);
    CHECK_EQ(all_to_all.rounds, 1);
  }
  CHECK_EQ(proof_of(Collective::kAllToAll, Algorithm::kDirect, 33, 1024).rounds, 1);
  CHECK_EQ(proof_of(Collective::kAllToAll, Algorithm::kDirect, 33, 256 * 1024).rounds, 32 / 8);
}

TEST(closed_forms_of_rooted) {
  for (const int world : {2, 3, 4, 7, 8, 31}) {
    const auto n = static_cast<uint64_t>(world);
    const int log_of_others = log2_floor(n - 1);
    const Proof tree = proof_of(Collective::kBroadcast, Algorithm::kTree, world, kBytes);
    CHECK_EQ(tree.bytes_sent[0], kBytes);
    CHECK_EQ(sum(tree.bytes_sent), (n - 1) * kBytes);
    CHECK(largest(tree.bytes_sent) <= kBytes);
    CHECK(tree.rounds <= log_of_others + 1);

    const Proof ring = proof_of(Collective::kBroadcast, Algorithm::kRing, world, 1024 * n);
    CHECK_EQ(ring.bytes_sent[0], 2 * (n - 1) * 1024);
    CHECK_EQ(ring.rounds, world - 1);

    const Proof up = proof_of(Collective::kReduce, Algorithm::kTree, world, kBytes);
    CHECK_EQ(up.bytes_sent[0], 0u);
    for (std::size_t rank = 1; rank < n; ++rank) CHECK_EQ(up.bytes_sent[rank], kBytes);

    for (const Collective flat : {Collective::kBroadcast, Collective::kScatter}) {
      const Proof proof = proof_of(flat, Algorithm::kDirect, world, kBytes);
      CHECK_EQ(proof.bytes_sent[0], (n - 1) * kBytes);
      CHECK_EQ(sum(proof.bytes_sent), (n - 1) * kBytes);
      CHECK_EQ(proof.rounds, 1);
    }
    const Proof barrier = proof_of(Collective::kBarrier, Algorithm::kDirect, world, 0);
    CHECK_EQ(sum(barrier.bytes_sent), 0u);
    CHECK_EQ(barrier.rounds, static_cast<int>(std::bit_width(n - 1)));
  }
}

// Partial sums use a few chunks of scratch, independent of the size of the data.
TEST(scratch_is_bounded) {
  PlanRequest request = request_of(Collective::kReduce, Algorithm::kTree, 7, 100 * 1024);
  request.chunk_bytes = 1024;
  for (const Schedule& schedule : build_all(request)) CHECK(schedule.scratch_bytes <= 4 * 1024);
  request = request_of(Collective::kReduceScatter, Algorithm::kRing, 7, 1024);
  for (const Schedule& schedule : build_all(request)) CHECK_EQ(schedule.scratch_bytes, 2 * 1024u);
}

TEST(direct_reduces_in_rank_order) {
  const std::vector<std::string> in_rank_order{"((((0+1)+2)+3)+4)"};
  for (const Collective collective :
       {Collective::kAllReduce, Collective::kReduceScatter, Collective::kReduce}) {
    for (const uint64_t bytes : {uint64_t{40}, kBytes}) {
      const Proof proof = proof_of(collective, Algorithm::kDirect, 5, bytes);
      CHECK(proof.orders == in_rank_order);
    }
  }
}

}  // namespace fastgpu::test
