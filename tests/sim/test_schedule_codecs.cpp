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

bool is_encode(const Step& step) { return step.coding == Coding::kEncode; }
bool is_decode(const Step& step) { return step.coding == Coding::kDecode && !step.reduce; }
bool is_decode_reduce(const Step& step) { return step.coding == Coding::kDecode && step.reduce; }

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
  CHECK_THROWS(build(request), InvalidArgumentError, "only the direct all_reduce of float32");
  request = kEncoded;
  request.algorithm = Algorithm::kRing;
  CHECK_THROWS(build(request), InvalidArgumentError, "only the direct all_reduce of float32");
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
