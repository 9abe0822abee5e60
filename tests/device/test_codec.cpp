// The codec kernels give the bits of the CPU's, and the tests find planted faults in them.
#include <array>
#include <string>

#include "check.h"
#include "codec_world.h"
#include "encoded_world.h"
#include "seeds.h"
#include "sim/schedule_cases.h"

namespace fastgpu::test {
namespace {

constexpr std::array kDeviceCodecs = {Codec::kFloat16, Codec::kBFloat16, Codec::kInt8,
                                      Codec::kInt4};

// Under a sanitizer a case takes several times as long.
constexpr uint64_t kCodecCases = kStride == 1 ? 60 : 30;

// A planted fault must show with one of the first seeds, and nothing without it.
void check_found(std::string (*run)(const CodecCase&), CodecCase healthy, CodecCase faulty) {
  constexpr uint64_t kSeeds = 8;
  bool found = false;
  for (uint64_t seed = 1; seed <= kSeeds && !found; ++seed) {
    healthy.seed = faulty.seed = seed;
    CHECK_EQ(run(healthy), "");
    found = !run(faulty).empty();
  }
  CHECK(found);
}

}  // namespace

TEST(drawn_arrays_are_encoded_with_the_bits_of_the_cpu) {
  for (const Codec codec : kDeviceCodecs) {
    for (const uint64_t seed : seeds()) {
      for (uint64_t i = 0; i < kCodecCases; ++i) {
        CHECK_EQ(run_encode(draw_codec_case(codec, seed * 1000 + i)), "");
      }
    }
  }
}

TEST(drawn_arrays_are_decoded_with_the_bits_of_the_cpu) {
  for (const Codec codec : kDeviceCodecs) {
    for (const uint64_t seed : seeds()) {
      for (uint64_t i = 0; i < kCodecCases; ++i) {
        CHECK_EQ(run_decode(draw_codec_case(codec, seed * 1000 + i)), "");
      }
    }
  }
}

TEST(residuals_are_added_with_the_bits_of_the_cpu) {
  for (const uint64_t seed : seeds()) {
    for (uint64_t i = 0; i < 2 * kCodecCases; ++i) {
      CHECK_EQ(run_add_residual(draw_codec_case(Codec::kFloat16, seed * 1000 + i)), "");
    }
  }
}

TEST(every_count_is_encoded_and_decoded) {
  for (const Codec codec : kDeviceCodecs) {
    for (std::size_t count = 0; count <= 2 * 128 + 1; ++count) {
      if (count % kStride != 0) continue;
      CodecCase every{.codec = codec, .count = count};
      every.seed = count;
      every.feedback = count % 2 == 0;
      every.sources = 2;
      CHECK_EQ(run_encode(every), "");
      CHECK_EQ(run_decode(every), "");
    }
  }
}

TEST(zeros_keep_their_sign) {
  for (const Codec codec : kDeviceCodecs) {
    for (const int plain_at : {-1, 0, 1}) {
      for (const std::size_t count : {70, 1100}) {
        CodecCase zeros{.codec = codec, .count = count, .feedback = true, .plain_at = plain_at};
        zeros.negative_zeros = true;
        CHECK_EQ(run_encode(zeros), "");
        CHECK_EQ(run_decode(zeros), "");
        CHECK_EQ(run_add_residual(zeros), "");
      }
    }
  }
}

TEST(an_encoded_all_reduce_has_the_bits_of_the_cpu) {
  uint64_t number = 0;
  for (const Codec codec : kDeviceCodecs) {
    for (int world = 2; world <= 8; ++world) {
      for (const std::size_t count : {1, 65, 700, 2300}) {
        if (++number % (2 * kStride) != 0) continue;
        EncodedCase encoded{.codec = codec, .world = world, .count = count, .seed = number};
        encoded.feedback = number % 3 != 0;
        encoded.stochastic = number % 4 == 0 && is_block_codec(codec);
        encoded.factor = number % 5 == 0 ? 1.0 / world : 1;
        CHECK_EQ(run_encoded(encoded), "");
      }
    }
  }
}

TEST(a_forgotten_step_of_an_exchange_is_found) {
  for (const Codec codec : kDeviceCodecs) {
    const CodecCase healthy{.codec = codec, .count = 300};
    CodecCase faulty = healthy;
    faulty.fault = simt::MachineFault::kShuffleKeepsOwn;
    check_found(run_encode, healthy, faulty);
    check_found(run_decode, healthy, faulty);
  }
}

// The kernel rounds the count up to a block. The bytes beyond the end change the scale.
TEST(a_block_that_is_read_beyond_the_end_is_found) {
  for (const Codec codec : kDeviceCodecs) {
    const CodecCase healthy{.codec = codec, .count = 193};
    CodecCase faulty = healthy;
    faulty.rounds_count_up = true;
    check_found(run_encode, healthy, faulty);
  }
}

TEST(a_sum_in_another_order_is_found) {
  for (const Codec codec : kDeviceCodecs) {
    const CodecCase healthy{.codec = codec, .count = 300, .sources = 5, .plain_at = 3};
    CodecCase faulty = healthy;
    faulty.moves_plain = true;
    check_found(run_decode, healthy, faulty);
  }
}

}  // namespace fastgpu::test
