// Schedules with encoded frames: proven over a sweep, and verify() finds planted faults.
#include <array>

#include "base/codec.h"
#include "base/error.h"
#include "check.h"
#include "mutations.h"
#include "schedule_cases.h"

namespace fastgpu::test {
namespace {

PlanRequest encoded(int world, uint64_t count, Codec codec) {
  PlanRequest request = request_of(Collective::kAllReduce, Algorithm::kDirect, world, count);
  request.element_size = sizeof(float);
  request.chunk_bytes = 64 * sizeof(float);
  request.codec = codec;
  return request;
}

// Four ranks, one lane, so that every shard has two chunks.
const PlanRequest kEncoded = encoded(4, 4 * 100, Codec::kInt8);

// The hosts {0, 1, 2} and {3, 4}, one lane: rank 2 owns no shard, and a part has two chunks.
PlanRequest by_host() {
  static const std::vector<int> hosts{0, 0, 0, 1, 1};
  PlanRequest request = encoded(5, 4 * 100, Codec::kInt8);
  request.algorithm = Algorithm::kHierarchical;
  request.host_of = hosts;
  return request;
}

bool is_encode(const Step& step) { return step.coding == Coding::kEncode; }
bool is_decode(const Step& step) { return step.coding == Coding::kDecode && !step.reduce; }
bool is_decode_reduce(const Step& step) { return step.coding == Coding::kDecode && step.reduce; }
bool is_add_residual(const Step& step) { return step.coding == Coding::kAddResidual; }

std::vector<int> equal_hosts(int world, int ranks) {
  std::vector<int> hosts;
  for (int rank = 0; rank < world; ++rank) hosts.push_back(rank / ranks);
  return hosts;
}

// The bytes that a rank sends to other hosts, and the frames inside its host that are not whole
// float32 elements.
struct Sent {
  uint64_t between_hosts = 0;
  uint64_t encoded_inside = 0;
};
Sent sent_by(const PlanRequest& request, int rank) {
  PlanRequest mine = request;
  mine.rank = rank;
  Sent sent;
  for (const Lane& lane : build(mine).lanes) {
    for (const Step& step : lane) {
      if (step.verb != Verb::kSend) continue;
      const auto host = [&](int each) { return request.host_of[static_cast<std::size_t>(each)]; };
      if (host(rank) != host(step.peer)) {
        sent.between_hosts += step.source.size_bytes;
      } else {
        sent.encoded_inside += step.source.buffer == Buffer::kScratch;
      }
    }
  }
  return sent;
}

}  // namespace

TEST(all_worlds_counts_and_chunks_are_proven) {
  uint64_t number = 0;
  for (int world = 1; world <= 33; ++world) {
    for (const uint64_t count : {0, 1, 65, 1000, 4099}) {
      for (int codec = 1; codec < kCodecCount; ++codec, ++number) {
        if (number % kStride != 0) continue;
        PlanRequest request = encoded(world, count, static_cast<Codec>(codec));
        request.lanes = static_cast<int>(1 + number % 3);
        // One element per chunk only in short tensors: a long one would have thousands of chunks.
        request.chunk_bytes = count < 100 && number % 5 == 0 ? 4 : 4 * (40 + number % 97);
        const VerifyOptions options{static_cast<int>(number % 4), number + 1, {}};
        CHECK_EQ(verify(request, options).counterexample, "");
      }
    }
  }
}

TEST(all_worlds_are_proven_over_many_layouts_of_hosts) {
  uint64_t number = 0;
  for (int world = 1; world <= 33; ++world) {
    const std::vector<std::vector<int>> layouts{
        equal_hosts(world, 1),         equal_hosts(world, 2),        equal_hosts(world, 3),
        equal_hosts(world, 8),         equal_hosts(world, world),    uneven_hosts(world, 4, false),
        uneven_hosts(world, 7, false), uneven_hosts(world, 3, true), uneven_hosts(world, 5, true)};
    for (const std::vector<int>& hosts : layouts) {
      for (const uint64_t count : {0, 3, 65, 1000, 4099}) {
        if (number++ % kStride != 0) continue;
        const auto codec = static_cast<Codec>(1 + number % (kCodecCount - 1));
        PlanRequest request = encoded(world, count, codec);
        request.algorithm = Algorithm::kHierarchical;
        request.host_of = hosts;
        request.lanes = static_cast<int>(1 + number % 3);
        request.chunk_bytes = count < 100 && number % 5 == 0 ? 4 : 4 * (40 + number % 97);
        const VerifyOptions options{static_cast<int>(number % 4), number + 1, {}};
        CHECK_EQ(verify(request, options).counterexample, "");
      }
    }
  }
}

// The ranks of a host first, then the hosts. Two roundings, also over many hosts.
TEST(hosts_are_added_up_before_they_are_encoded) {
  const std::vector<int> hosts{0, 0, 1, 1, 2};
  PlanRequest request = encoded(5, 192, Codec::kInt4);
  request.algorithm = Algorithm::kHierarchical;
  request.host_of = hosts;
  const Proof proof = verify(request);
  CHECK_EQ(proof.counterexample, "");
  CHECK_EQ(proof.orders.size(), 3u);
  CHECK_EQ(proof.orders[0], "[(((0+1)+[(2+3)])+[4])]");
  CHECK_EQ(proof.orders[1], "[(([(0+1)]+(2+3))+[4])]");
  CHECK_EQ(proof.orders[2], "[(([(0+1)]+[(2+3)])+4)]");
  CHECK_EQ(proof.rounds, 4);
}

// A host of m ranks sends to other hosts what one rank of a flat all_reduce over the hosts sends,
// an m-th of what its ranks send in a flat one over all ranks. Nothing encoded moves inside a host.
TEST(a_host_sends_as_much_as_one_rank_would) {
  for (const auto& [hosts, ranks] : {std::pair(2, 2), std::pair(2, 8), std::pair(3, 4)}) {
    const std::vector<int> host_of = equal_hosts(hosts * ranks, ranks);
    for (const Codec codec : {Codec::kBFloat16, Codec::kInt8, Codec::kInt4}) {
      PlanRequest request =
          encoded(hosts * ranks, static_cast<uint64_t>(hosts * ranks) * 128, codec);
      request.host_of = host_of;
      const uint64_t whole = encoded_bytes(codec, request.count);
      const auto other_hosts = static_cast<uint64_t>(hosts - 1);
      const auto of_host = [&](Algorithm algorithm) {
        request.algorithm = algorithm;
        uint64_t sum = 0;
        for (int rank = 0; rank < ranks; ++rank) {
          sum += sent_by(request, rank).between_hosts;
          if (algorithm == Algorithm::kHierarchical) {
            CHECK_EQ(sent_by(request, rank).encoded_inside, uint64_t{0});
          }
        }
        return sum;
      };
      CHECK_EQ(of_host(Algorithm::kHierarchical),
               2 * other_hosts * whole / static_cast<uint64_t>(hosts));
      CHECK_EQ(of_host(Algorithm::kDirect),
               static_cast<uint64_t>(ranks) * of_host(Algorithm::kHierarchical));
    }
  }
}

TEST(a_residual_that_is_not_used_once_is_found) {
  check_found(
      by_host(),
      [](World& world) {
        Lane& lane = lane_of(world, 2);
        lane.erase(find_step(lane, is_add_residual, 1));
      },
      "uses the residual");
  check_found(
      by_host(),
      [](World& world) {
        Lane& lane = lane_of(world, 0);
        const auto step = find_step(lane, is_encode);
        const Region elements = step->source;
        lane.insert(step, {.verb = Verb::kCopy,
                           .coding = Coding::kAddResidual,
                           .source = elements,
                           .target = elements});
      },
      "another step has used the elements before");
}

TEST(a_residual_that_is_added_after_the_send_is_found) {
  check_found(
      by_host(),
      [](World& world) {
        const auto step = find_step(lane_of(world, 2), is_add_residual);
        std::swap(*step, *(step + 1));
      },
      "another step has used the elements before");
}

TEST(faults_inside_a_host_are_found) {
  check_found(
      by_host(), [](World& world) { find_step(lane_of(world, 3), is_reduce)->reduce = false; },
      "the sum of all ranks");
  // Rank 1 keeps the exact sum, and passes it on inside its host.
  check_found(
      by_host(),
      [](World& world) {
        Lane& lane = lane_of(world, 1);
        lane.erase(find_step(lane, is_decode, 1));
      },
      "ranks 0 and 3 reduce in different orders");
}

// Two roundings, in rank order; only the owner's own part is not rounded before the sum.
TEST(the_order_of_the_sum_is_that_of_the_ranks) {
  const Proof proof = verify(encoded(3, 192, Codec::kInt4));
  CHECK_EQ(proof.counterexample, "");
  CHECK_EQ(proof.orders.size(), 3u);
  CHECK_EQ(proof.orders[0], "[((0+[1])+[2])]");
  CHECK_EQ(proof.orders[1], "[(([0]+1)+[2])]");
  CHECK_EQ(proof.orders[2], "[(([0]+[1])+2)]");
  CHECK_EQ(proof.rounds, 2);
}

TEST(a_rank_sends_the_encoded_bytes_and_no_more) {
  for (const Codec codec : {Codec::kFloat16, Codec::kBFloat16, Codec::kInt8, Codec::kInt4,
                            Codec::kTopk, Codec::kOneBit}) {
    const PlanRequest request = encoded(4, 4 * 1024, codec);
    const uint64_t shard = 16 * encoded_bytes(codec, 64);
    for (const uint64_t sent : verify(request).bytes_sent) CHECK_EQ(sent, 2 * 3 * shard);
  }
}

TEST(other_calls_have_no_codec) {
  PlanRequest request = kEncoded;
  request.element_size = 2;
  CHECK_THROWS(build(request), InvalidArgumentError, "only a direct or hierarchical all_reduce");
  request = kEncoded;
  request.algorithm = Algorithm::kRing;
  CHECK_THROWS(build(request), InvalidArgumentError, "only a direct or hierarchical all_reduce");
}

TEST(an_owner_that_keeps_its_exact_sum_is_found) {
  check_found(
      kEncoded,
      [](World& world) {
        Lane& lane = lane_of(world, 0);
        lane.erase(find_step(lane, is_decode));
      },
      "reduce in different orders");
}

TEST(a_sum_of_another_chunk_is_found) {
  check_found(
      kEncoded,
      [](World& world) {
        Lane& lane = lane_of(world, 3);
        // After its own two chunks, and the contributions of rank 0 to them.
        std::swap(find_step(lane, is_decode, 4)->target, find_step(lane, is_decode, 5)->target);
      },
      "of its data");
}

TEST(a_decode_of_plain_or_partial_bytes_is_found) {
  check_found(
      kEncoded,
      [](World& world) {
        Lane& lane = lane_of(world, 2);
        find_step(lane, is_encode)->coding = Coding::kPlain;
      },
      "differ in size");
  check_found(
      encoded(4, 4 * 100, Codec::kFloat16),
      [](World& world) {
        Step& decode = *find_step(lane_of(world, 2), is_decode_reduce);
        decode.source.offset_bytes += 64;  // half of the frame, and what lies behind it
      },
      "not one whole frame");
}

TEST(a_contribution_that_is_stored_instead_of_added_is_found) {
  check_found(
      kEncoded,
      [](World& world) { find_step(lane_of(world, 1), is_decode_reduce)->reduce = false; },
      "the sum of all ranks");
}

TEST(encoded_bytes_that_are_added_as_numbers_are_found) {
  check_found(
      encoded(2, 2 * 64, Codec::kFloat16),
      [](World& world) {
        Lane& lane = lane_of(world, 0);
        Step& decode = *find_step(lane, is_decode_reduce);
        decode.coding = Coding::kPlain;
        decode.target.size_bytes = decode.source.size_bytes;
      },
      "encoded bytes");
}

}  // namespace fastgpu::test
