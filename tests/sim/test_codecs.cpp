// all_reduce with encoded frames through a communicator: error feedback, and calls without a codec.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "check.h"
#include "codec/codec_costs.h"
#include "comm/planner.h"
#include "sim/rank_threads.h"

namespace fastgpu {
namespace {

constexpr int kWorld = 3;
constexpr std::size_t kCount = 20'000;
constexpr int kSteps = 40;

// The same on every call, so that what a step loses shows in the sum of all steps.
std::vector<float> gradient_of(int rank) {
  std::mt19937 random(static_cast<uint32_t>(rank));
  std::normal_distribution<float> normal;
  std::vector<float> values(kCount);
  for (float& value : values) value = normal(random);
  return values;
}

// A residual of zeros: none, 8 bits or 32.
class OwnResidual {
 public:
  explicit OwnResidual(int bits) {
    view_.count = kCount;
    if (bits == 32) {
      values_.resize(kCount);
      view_.values = values_.data();
    } else if (bits == 8) {
      codes_.resize(kCount);
      scales_.resize((kCount + kInt8Block - 1) / kInt8Block * kScaleBytes);
      view_.codes = codes_.data();
      view_.scales = scales_.data();
    }
  }
  const Residual& view() const { return view_; }

 private:
  std::vector<float> values_;
  std::vector<std::byte> codes_;
  std::vector<std::byte> scales_;
  Residual view_;
};

// The largest error of an element in the sum of kSteps encoded all_reduces, by rank 0.
double error_of_steps(Codec codec, int residual_bits) {
  double worst = 0;
  with_world(kWorld, Options{}, [&](Communicator& communicator) {
    const std::vector<float> gradient = gradient_of(communicator.rank());
    const OwnResidual residual(residual_bits);
    std::vector<double> sums(kCount);
    for (int step = 0; step < kSteps; ++step) {
      std::vector<float> values = gradient;
      CollectiveCall call = all_reduce_of(values);
      call.shape.codec = codec;
      call.residual = residual.view();
      communicator.wait(*communicator.run(std::move(call)), -1);
      for (std::size_t i = 0; i < kCount; ++i) sums[i] += values[i];
    }
    if (communicator.rank() != 0) return;
    std::vector<double> exact(kCount);
    for (int rank = 0; rank < kWorld; ++rank) {
      const std::vector<float> part = gradient_of(rank);
      for (std::size_t i = 0; i < kCount; ++i) exact[i] += part[i];
    }
    for (std::size_t i = 0; i < kCount; ++i) {
      worst = std::max(worst, std::abs(sums[i] - kSteps * exact[i]));
    }
  });
  return worst;
}

// Without feedback the same rounding is lost in every step. With it, what is missing at the end is
// no more than the residuals of the last step: at most a code's step for every rank and the owner.
// An 8-bit residual also loses 1/128 of that in each step; twice, where chunks share a block.
TEST(feedback_pays_back_what_rounding_took) {
  constexpr double kLargest = 5;  // no smaller than any of 20,000 normally distributed numbers
  for (const auto& [codec, levels] : {std::pair(Codec::kInt8, 128), std::pair(Codec::kInt4, 8)}) {
    const double once = kLargest * (kWorld - 1) / levels + kLargest * kWorld / levels;
    CHECK(error_of_steps(codec, 32) < 1.1 * once);
    CHECK(error_of_steps(codec, 8) < 1.1 * once * (1 + 2.0 * kSteps / 128));
    CHECK(error_of_steps(codec, 0) > 2 * once);
  }
}

// All ranks must have the same bits after each step, also if one rank has an infinity.
TEST(coarse_codecs_give_all_ranks_the_same_bits) {
  for (const Codec codec : {Codec::kTopk, Codec::kOneBit}) {
    for (const int world : {2, 3, 5, 9}) {
      std::vector<std::vector<uint32_t>> results(static_cast<std::size_t>(world));
      with_world(world, Options{}, [&](Communicator& communicator) {
        const auto rank = static_cast<std::size_t>(communicator.rank());
        const OwnResidual residual(32);
        for (int step = 0; step < 3; ++step) {
          std::vector<float> values = gradient_of(communicator.rank());
          if (step == 2 && communicator.rank() == 1) values[777] = INFINITY;
          CollectiveCall call = all_reduce_of(values);
          call.shape.codec = codec;
          call.residual = residual.view();
          communicator.wait(*communicator.run(std::move(call)), -1);
          for (const float value : values) results[rank].push_back(std::bit_cast<uint32_t>(value));
        }
      });
      const auto is_finite = [](uint32_t bits) {
        return std::isfinite(std::bit_cast<float>(bits));
      };
      const auto last = results[0].begin() + 2 * kCount;
      CHECK(std::all_of(results[0].begin(), last, is_finite));
      CHECK(!std::all_of(last, results[0].end(), is_finite));
      for (const std::vector<uint32_t>& other : results) CHECK(other == results[0]);
    }
  }
}

// Small calls often end before they are queued.
TEST(every_encoded_call_knows_the_time_of_its_codec) {
  with_own_engines(2, Options{}, [](Communicator& communicator, Runtime&) {
    for (int step = 0; step < 200; ++step) {
      std::vector<float> values(2'000, 1);
      CollectiveCall call = all_reduce_of(values);
      call.synchronous = true;
      const auto plain = communicator.run(call);
      call.shape.codec = Codec::kInt8;
      const auto encoded = communicator.run(std::move(call));
      communicator.wait(*encoded, -1);
      CHECK(encoded->codec_ns() > 0);
      CHECK_EQ(plain->codec_ns(), 0);
    }
  });
}

// On a slow link the bytes decide, and on a very fast one the codec's time.
TEST(a_codec_is_priced_by_its_bytes_and_its_time) {
  Topology topology;
  topology.records.resize(2);
  topology.host_of = {0, 1};
  topology.most_on_machine = 1;
  Planner planner(0, topology, Options{});
  CollectiveCall call;
  call.shape.collective = Collective::kAllReduce;
  call.shape.dtype = DType::kFloat32;
  call.shape.count = 1 << 22;
  const auto price_of = [&](Codec codec, double us_per_byte) {
    Constants constants;
    constants.between_hosts = {1, us_per_byte, 0, 0};
    constants.nic_us_per_byte = us_per_byte;
    constants.copy_us_per_byte = constants.reduce_us_per_byte = 0;
    planner.set_constants(constants);
    call.shape.codec = codec;
    return planner.predict_us(call);
  };
  const double bytes = 4.0 * (1 << 22);
  for (const Codec codec : {Codec::kBFloat16, Codec::kInt8, Codec::kInt4, Codec::kTopk}) {
    const CodecCosts& costs = costs_of(codec);
    const double time = bytes * (costs.encode_us_per_byte + costs.decode_us_per_byte +
                                 costs.decode_add_us_per_byte / 2);
    CHECK(time > 0);
    const double share = static_cast<double>(encoded_bytes(codec, 1 << 22)) / bytes;
    const double slow = price_of(codec, 1) / price_of(Codec::kNone, 1);
    CHECK(slow > 0.99 * share && slow < 1.05 * share + time / bytes);
    CHECK(price_of(codec, 1e-9) > price_of(Codec::kNone, 1e-9));
    CHECK(price_of(codec, 1e-9) >= time && price_of(codec, 1e-9) < time + 100);
  }
}

TEST(a_codec_for_other_calls_is_refused) {
  with_world(2, Options{}, [](Communicator& communicator) {
    std::vector<float> values(kCount);
    CollectiveCall call = all_reduce_of(values);
    call.shape.codec = Codec::kInt8;
    call.shape.reduce_op = ReduceOp::kMax;
    CHECK_THROWS(communicator.run(std::move(call)), InvalidArgumentError,
                 "codec int8 is for SUM, AVG and PREMUL_SUM of float32, not for MAX of float32");
  });
}

TEST(small_calls_of_a_group_with_a_codec_are_exact) {
  Options options;
  options.codec = Codec::kInt4;
  with_world(3, options, [](Communicator& communicator) {
    check_all_reduce(communicator, kLeastEncodedBytes / sizeof(float) - 1);
  });
}

}  // namespace
}  // namespace fastgpu
