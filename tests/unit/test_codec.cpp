// Compares the codecs with the definition of their formats in docs/compression.md and with the
// error bounds derived there, on every SIMD variant, for any count, and without touching memory
// around their arrays.
#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"
#include "codec/codec.h"
#include "kernels/cpu/variant.h"
#include "unit/codec_cases.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fastgpu::codec_cases {
namespace {

void check_variant(const cpu::Variant& variant, Codec codec, const Floats& source) {
  const CodecKernels& kernels = *variant.find_codec(codec);
  const CodecKernels& base = *cpu::kBaseVariant.find_codec(codec);
  const Bytes bytes = encoded(kernels, codec, source);
  CHECK(bytes == encoded(base, codec, source));
  const Floats result = decoded(kernels, bytes, source.size());
  CHECK(same_bits(result, decoded(base, bytes, source.size())));
  const Floats sum = random_bits(source.size(), 77);
  CHECK(same_bits(decoded(kernels, bytes, source.size(), &sum),
                  decoded(base, bytes, source.size(), &sum)));
  Floats residual = random_floats(source.size(), 78, 1e-2F);
  Floats base_residual = residual;
  CHECK(encoded(kernels, codec, source, &residual) == encoded(base, codec, source, &base_residual));
  CHECK(same_bits(residual, base_residual));
}

bool all_finite(const Floats& values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
}

}  // namespace

TEST(codecs_are_found_by_their_number) {
  CHECK(find_codec(Codec::kNone) == nullptr);
  for (const Codec codec : kCodecs)
    CHECK(find_codec(codec) == cpu::active_variant().find_codec(codec));
}

TEST(encoded_sizes_are_those_of_the_formats) {
  CHECK_EQ(encoded_bytes(Codec::kFloat16, 301), 602u);
  CHECK_EQ(encoded_bytes(Codec::kBFloat16, 301), 602u);
  CHECK_EQ(encoded_bytes(Codec::kInt8, 64), 66u);
  CHECK_EQ(encoded_bytes(Codec::kInt8, 65), 69u);
  CHECK_EQ(encoded_bytes(Codec::kInt4, 32), 18u);
  CHECK_EQ(encoded_bytes(Codec::kInt4, 33), 21u);
  CHECK_EQ(encoded_bytes(Codec::kTopk, 4096), 129u);
  CHECK_EQ(encoded_bytes(Codec::kTopk, 4097), 132u);
  CHECK_EQ(encoded_bytes(Codec::kTopk, 1), 3u);
  CHECK_EQ(encoded_bytes(Codec::kOneBit, 128), 18u);
  CHECK_EQ(encoded_bytes(Codec::kOneBit, 129), 21u);
  CHECK_EQ(encoded_bytes(Codec::kOneBit, 1), 3u);
  for (const Codec codec : kCodecs) CHECK_EQ(encoded_bytes(codec, 0), 0u);
}

TEST(block_codecs_encode_as_defined) {
  for (const Codec codec : kBlockCodecs) {
    for (const std::vector<Floats>& arrays : {special_arrays(), arrays_of_all_counts()}) {
      for (const Floats& source : arrays) {
        CHECK(encoded(*find_codec(codec), codec, source) == defined_encoding(codec, source));
      }
    }
  }
}

TEST(every_variant_of_a_codec_gives_the_bits_of_the_base) {
  for (const cpu::Variant* variant : cpu::usable_variants()) {
    for (const Codec codec : kCodecs) {
      for (const std::vector<Floats>& arrays : {special_arrays(), arrays_of_all_counts()})
        for (const Floats& source : arrays) check_variant(*variant, codec, source);
    }
  }
}

#if defined(__x86_64__)

TEST(codecs_give_the_same_bits_in_a_thread_that_flushes_subnormals) {
  constexpr unsigned kFlush = 0x8040;  // of operands and results
  for (const cpu::Variant* variant : cpu::usable_variants()) {
    for (const Codec codec : kCodecs) {
      const CodecKernels& kernels = *variant->find_codec(codec);
      for (Floats source : special_arrays()) {
        for (std::size_t i = 0; i < source.size(); i += 3)
          source[i] = std::bit_cast<float>(std::bit_cast<uint32_t>(source[i]) & 0x80ffffff);
        const Bytes bytes = encoded(kernels, codec, source);
        const Floats result = decoded(kernels, bytes, source.size());
        const unsigned before = _mm_getcsr();
        _mm_setcsr(before | kFlush);
        const Bytes flushed_bytes = encoded(kernels, codec, source);
        const Floats flushed = decoded(kernels, bytes, source.size());
        _mm_setcsr(before);
        CHECK(bytes == flushed_bytes);
        CHECK(same_bits(result, flushed));
      }
    }
  }
}

#endif

TEST(the_error_of_a_codec_is_bounded) {
  for (const Codec codec : kBoundedCodecs) {
    const CodecKernels& kernels = *find_codec(codec);
    for (const Floats& source : arrays_of_all_counts())
      check_error(codec, source, decoded(kernels, encoded(kernels, codec, source), source.size()));
  }
}

TEST(the_error_of_a_block_codec_is_bounded_for_any_finite_numbers) {
  for (const Codec codec : kBlockCodecs) {
    const CodecKernels& kernels = *find_codec(codec);
    for (const Floats& source : special_arrays()) {
      if (!all_finite(source)) continue;
      check_error(codec, source, decoded(kernels, encoded(kernels, codec, source), source.size()));
    }
  }
}

TEST(a_value_within_the_codes_loses_at_most_half_a_step) {
  for (const Codec codec : kBlockCodecs) {
    const CodecKernels& kernels = *find_codec(codec);
    const Floats source = random_floats(10000, 3);
    const Floats result = decoded(kernels, encoded(kernels, codec, source), source.size());
    for (std::size_t i = 0; i < source.size(); ++i) {
      const std::size_t first = i - i % block_of(codec);
      const double scale = defined_scale(codec, source.data() + first,
                                         std::min(block_of(codec), source.size() - first));
      if (source[i] / scale > -smallest_code(codec) - 0.5) continue;
      CHECK(std::fabs(source[i] - double{result[i]}) <=
            std::fabs(scale) * (0.5 + std::ldexp(1, -16)));
    }
  }
}

TEST(a_block_that_is_not_finite_decodes_to_nan_and_spares_its_neighbours) {
  for (const Codec codec : kBlockCodecs) {
    const CodecKernels& kernels = *find_codec(codec);
    const std::size_t block = block_of(codec);
    for (const float special : {kInfinity, -kInfinity, kNan}) {
      for (std::size_t at = 0; at < 300; at += 7) {
        Floats source = random_floats(300, 9);
        const Floats before = decoded(kernels, encoded(kernels, codec, source), source.size());
        source[at] = special;
        const Floats after = decoded(kernels, encoded(kernels, codec, source), source.size());
        for (std::size_t i = 0; i < source.size(); ++i)
          CHECK(same_bits(after[i], i / block == at / block ? kNan : before[i]));
      }
    }
  }
}

TEST(zeros_decode_to_positive_zeros) {
  for (const Codec codec : kBlockCodecs) {
    const CodecKernels& kernels = *find_codec(codec);
    for (const float rest : {0.0F, -0.0F, 1.0F, -1.0F}) {
      Floats source(100, 0.0F);
      source[40] = rest;
      const Floats result = decoded(kernels, encoded(kernels, codec, source), source.size());
      for (std::size_t i = 0; i < source.size(); ++i) {
        if (i != 40) CHECK(same_bits(result[i], 0.0F));
      }
    }
  }
}

TEST(constants_and_small_integers_survive_int8) {
  const CodecKernels& kernels = *find_codec(Codec::kInt8);
  Floats source(256);
  for (std::size_t i = 0; i < source.size(); ++i)
    source[i] = i % 64 == 0 ? -128.0F : static_cast<float>(i % 64) * 2 - 1;
  CHECK(same_bits(source, decoded(kernels, encoded(kernels, Codec::kInt8, source), 256)));
  const Floats constant(77, -0.375F);
  CHECK(same_bits(constant, decoded(kernels, encoded(kernels, Codec::kInt8, constant), 77)));
}

TEST(short_codecs_round_to_nearest_even) {
  const Floats source = {1 + 0x1p-11F, 1 + 0x3p-11F, 65519.0F, 65520.0F, -kInfinity, kNan};
  const Floats expected = {1, 1 + 0x2p-10F, 65504, kInfinity, -kInfinity, kNan};
  const CodecKernels& half = *find_codec(Codec::kFloat16);
  CHECK(same_bits(expected, decoded(half, encoded(half, Codec::kFloat16, source), 6)));
  const Floats brain_source = {1 + 0x1p-8F, 1 + 0x3p-8F, kLargest, -kNan};
  const Floats brain_expected = {1, 1 + 0x2p-7F, kInfinity, kNan};
  const CodecKernels& brain = *find_codec(Codec::kBFloat16);
  CHECK(
      same_bits(brain_expected, decoded(brain, encoded(brain, Codec::kBFloat16, brain_source), 4)));
}

TEST(decode_add_is_decode_then_add) {
  for (const cpu::Variant* variant : cpu::usable_variants()) {
    for (const Codec codec : kCodecs) {
      const CodecKernels& kernels = *variant->find_codec(codec);
      for (const std::vector<Floats>& arrays : {special_arrays(), arrays_of_all_counts()}) {
        for (const Floats& source : arrays) {
          const Bytes bytes = encoded(kernels, codec, source);
          const Floats addend = decoded(kernels, bytes, source.size());
          const Floats before = random_bits(source.size(), 5);
          const Floats sum = decoded(kernels, bytes, source.size(), &before);
          for (std::size_t i = 0; i < sum.size(); ++i) {
            const float expected = before[i] + addend[i];
            const bool left_out = codec == Codec::kTopk && addend[i] == 0;
            CHECK(sum[i] == expected || (std::isnan(expected) && same_bits(sum[i], kNan)) ||
                  (left_out && same_bits(sum[i], before[i])));
          }
        }
      }
    }
  }
}

TEST(feedback_keeps_what_the_encoding_lost) {
  for (const cpu::Variant* variant : cpu::usable_variants()) {
    for (const Codec codec : kCodecs) {
      const CodecKernels& kernels = *variant->find_codec(codec);
      for (const Floats& source : arrays_of_all_counts()) {
        const Floats before = random_floats(source.size(), 6, 1e-2F);
        Floats values(source.size());
        for (std::size_t i = 0; i < values.size(); ++i) values[i] = source[i] + before[i];
        Floats residual = before;
        const Bytes bytes = encoded(kernels, codec, source, &residual);
        CHECK(bytes == encoded(kernels, codec, values));
        const Floats result = decoded(kernels, bytes, source.size());
        for (std::size_t i = 0; i < values.size(); ++i) CHECK(residual[i] == values[i] - result[i]);
      }
    }
  }
}

TEST(feedback_leaves_the_residual_of_a_block_that_is_not_finite) {
  for (const cpu::Variant* variant : cpu::usable_variants()) {
    for (const Codec codec : kCodecs) {
      const CodecKernels& kernels = *variant->find_codec(codec);
      for (const Floats& source : special_arrays()) {
        const Floats before(source.size(), 0x1p100F);
        Floats residual = before;
        const Bytes bytes = encoded(kernels, codec, source, &residual);
        const Floats result = decoded(kernels, bytes, source.size());
        for (std::size_t i = 0; i < source.size(); ++i) {
          const float lost = source[i] + before[i] - result[i];
          if (std::isfinite(lost) && (codec != Codec::kTopk || all_finite(result))) {
            CHECK(residual[i] == lost);
          } else {
            CHECK(same_bits(residual[i], before[i]));
          }
        }
      }
    }
  }
}

TEST(residuals_make_the_mean_of_many_encodings_exact) {
  for (const Codec codec : kBlockCodecs) {
    const CodecKernels& kernels = *find_codec(codec);
    const Floats source = random_floats(128, 11);
    Floats residual(source.size());
    std::vector<double> total(source.size());
    constexpr int kSteps = 200;
    for (int step = 0; step < kSteps; ++step) {
      const Floats result =
          decoded(kernels, encoded(kernels, codec, source, &residual), source.size());
      for (std::size_t i = 0; i < total.size(); ++i) total[i] += result[i];
    }
    for (std::size_t i = 0; i < total.size(); ++i) {
      // The sum of what was sent and what is left is the sum of the sources.
      CHECK(std::fabs(total[i] + residual[i] - double{source[i]} * kSteps) < 1e-3);
    }
  }
}

}  // namespace fastgpu::codec_cases
