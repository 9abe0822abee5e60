// Compares the codec 1bit with its definition in docs/compression.md, on every SIMD variant.
#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "check.h"
#include "codec/codec.h"
#include "kernels/cpu/variant.h"
#include "unit/codec_cases.h"

namespace fastgpu::codec_cases {
namespace {

// 16 partial sums of magnitudes / 128, added in halves.
float defined_mean(const float* block, std::size_t count) {
  std::array<float, 16> sums{};
  for (std::size_t i = 0; i < count; ++i) {
    if (!std::isfinite(block[i])) return kNan;
    const float magnitude = std::fabs(block[i]);
    if (magnitude >= 0x1p-100F) sums[i % 16] += magnitude / 128;
  }
  for (std::size_t half = 8; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  const float mean = sums[0] * (128.0F / static_cast<float>(count));
  const CodecKernels& brain = *cpu::kBaseVariant.find_codec(Codec::kBFloat16);
  const float rounded = decoded(brain, encoded(brain, Codec::kBFloat16, {mean}), 1)[0];
  return std::min(rounded, 0x1.fep127F);
}

struct DefinedSigns {
  Bytes bytes;
  Floats result;
};

DefinedSigns defined_one_bit(const Floats& source) {
  DefinedSigns defined;
  Bytes signs((source.size() + 7) / 8);
  for (std::size_t i = 0; i < source.size(); ++i) {
    const std::size_t first = i - i % kOneBitBlock;
    const std::size_t count = std::min<std::size_t>(kOneBitBlock, source.size() - first);
    const float scale = defined_mean(source.data() + first, count);
    if (i == first) {
      const uint32_t bits = std::bit_cast<uint32_t>(scale);
      defined.bytes.push_back(static_cast<std::byte>(bits >> 16));
      defined.bytes.push_back(static_cast<std::byte>(bits >> 24));
    }
    const bool negative = std::signbit(source[i]) && !std::isnan(scale);
    if (negative) signs[i / 8] |= static_cast<std::byte>(1 << i % 8);
    defined.result.push_back(negative ? -scale : scale);
  }
  defined.bytes.insert(defined.bytes.end(), signs.begin(), signs.end());
  return defined;
}

std::vector<Floats> arrays_for_one_bit() {
  std::vector<Floats> arrays = special_arrays();
  // Means near the largest number, and numbers near the least that counts.
  arrays.emplace_back(700, 0x1.fffp127F);
  Floats alternating(700, kLargest);
  for (std::size_t i = 0; i < alternating.size(); i += 2) alternating[i] = -kLargest;
  arrays.push_back(alternating);
  Floats tiny(700, 0x1p-101F);
  for (std::size_t i = 300; i < tiny.size(); ++i) tiny[i] = -0x1p-100F;
  arrays.push_back(tiny);
  Floats one(700, 0.0F);
  one[400] = 0x1p-100F;
  arrays.push_back(one);
  return arrays;
}

}  // namespace

TEST(one_bit_encodes_as_defined) {
  std::vector<Floats> arrays = arrays_for_one_bit();
  for (uint32_t count = 0; count <= 1100; count += 1 + count / 40)
    arrays.push_back(random_floats(count, count));
  for (const Floats& source : arrays) {
    const DefinedSigns defined = defined_one_bit(source);
    for (const cpu::Variant* variant : cpu::usable_variants()) {
      const CodecKernels& kernels = *variant->find_codec(Codec::kOneBit);
      CHECK(encoded(kernels, Codec::kOneBit, source) == defined.bytes);
      CHECK(same_bits(decoded(kernels, defined.bytes, source.size()), defined.result));
    }
  }
}

TEST(the_error_of_one_bit_is_bounded_for_any_finite_numbers) {
  const CodecKernels& kernels = *find_codec(Codec::kOneBit);
  for (const Floats& source : arrays_for_one_bit()) {
    if (!std::all_of(source.begin(), source.end(), [](float x) { return std::isfinite(x); }))
      continue;
    check_error(Codec::kOneBit, source,
                decoded(kernels, encoded(kernels, Codec::kOneBit, source), source.size()));
  }
}

// By Cauchy-Schwarz the part that is kept, squared, is at least the squared sum of magnitudes
// divided by the count. Error feedback needs that to converge.
TEST(one_bit_keeps_the_part_of_the_norm_that_it_should) {
  const CodecKernels& kernels = *find_codec(Codec::kOneBit);
  for (const uint32_t count : {1u, 100u, 128u}) {
    const Floats source = random_floats(count, count);
    const Floats result = decoded(kernels, encoded(kernels, Codec::kOneBit, source), source.size());
    double all = 0;
    double sum = 0;
    double lost = 0;
    for (std::size_t i = 0; i < count; ++i) {
      all += double{source[i]} * source[i];
      sum += std::fabs(double{source[i]});
      lost += std::pow(double{source[i]} - double{result[i]}, 2);
    }
    CHECK(lost <= all - sum * sum / count * (1 - std::ldexp(1, -14)));
  }
}

TEST(a_block_of_one_bit_that_is_not_finite_decodes_to_nan_and_spares_its_neighbours) {
  const CodecKernels& kernels = *find_codec(Codec::kOneBit);
  for (const float special : {kInfinity, -kInfinity, kNan}) {
    for (std::size_t at = 0; at < 900; at += 37) {
      Floats source = random_floats(900, 9);
      const Floats before =
          decoded(kernels, encoded(kernels, Codec::kOneBit, source), source.size());
      source[at] = special;
      const Floats after =
          decoded(kernels, encoded(kernels, Codec::kOneBit, source), source.size());
      for (std::size_t i = 0; i < source.size(); ++i) {
        CHECK(same_bits(after[i], i / kOneBitBlock == at / kOneBitBlock ? kNan : before[i]));
      }
    }
  }
}

TEST(constants_survive_one_bit) {
  const CodecKernels& kernels = *find_codec(Codec::kOneBit);
  for (const float value : {1.0F, -0.375F, 0x1p-100F, -0x1.fep127F}) {
    const Floats constant(128, value);
    CHECK(same_bits(constant, decoded(kernels, encoded(kernels, Codec::kOneBit, constant), 128)));
  }
}

// Once the mean magnitude exceeds that of every source, 4 here, no residual above it grows. So none
// exceeds a block's sum then.
TEST(one_bit_residuals_make_the_mean_of_many_encodings_exact) {
  const CodecKernels& kernels = *find_codec(Codec::kOneBit);
  const Floats source = random_floats(300, 11);
  Floats residual(source.size());
  std::vector<double> total(source.size());
  constexpr int kSteps = 5000;
  for (int step = 0; step < kSteps; ++step) {
    const Floats result =
        decoded(kernels, encoded(kernels, Codec::kOneBit, source, &residual), source.size());
    for (std::size_t i = 0; i < total.size(); ++i) total[i] += result[i];
  }
  for (std::size_t i = 0; i < total.size(); ++i) {
    CHECK(std::fabs(total[i] + residual[i] - double{source[i]} * kSteps) < 1);
    CHECK(std::fabs(residual[i]) < kOneBitBlock * 4);
  }
}

}  // namespace fastgpu::codec_cases
