// Stochastic rounding of int8 and int4, by its definition in docs/compression.md.
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "codec/random_key.h"
#include "kernels/cpu/variant.h"
#include "unit/codec_cases.h"

namespace fastgpu {
namespace {

using namespace codec_cases;

Bytes encoded_by(const CodecKernels& kernels, Codec codec, const Floats& source, uint64_t key,
                 Floats* residual = nullptr) {
  Bytes target(encoded_bytes(codec, source.size()) + 2 * kGuard, kGuardByte);
  kernels.encode_stochastic(source.data(), residual == nullptr ? nullptr : residual->data(),
                            target.data() + kGuard, source.size(), key);
  CHECK(std::count(target.begin(), target.begin() + kGuard, kGuardByte) == kGuard);
  CHECK(std::count(target.end() - kGuard, target.end(), kGuardByte) == kGuard);
  return {target.begin() + kGuard, target.end() - kGuard};
}

float defined_stochastic_scale(Codec codec, const float* block, std::size_t count) {
  const float extreme = defined_extreme(block, count);
  if (std::isnan(extreme)) return kNan;
  const auto codes = static_cast<float>(-smallest_code(codec) - 1);
  const float least = std::ldexp(static_cast<float>(-smallest_code(codec)), -109);
  const float exact = std::max(std::fabs(extreme), least) / codes;
  int exponent = 0;
  const double fraction = std::frexp(double{exact}, &exponent);
  const auto magnitude = static_cast<float>(std::ldexp(std::ceil(fraction * 256), exponent - 8));
  const auto most = static_cast<float>(std::ldexp(1.9921875, 127) / -smallest_code(codec));
  return std::copysign(std::min(magnitude, most), -extreme);
}

float defined_unit(uint64_t key, std::size_t element) {
  auto word = static_cast<uint32_t>(element / 32 * 16 + element % 16) ^ static_cast<uint32_t>(key);
  word = (word ^ (word >> 16)) * 0x85ebca6b;
  word = (word ^ (word >> 13) ^ static_cast<uint32_t>(key >> 32)) * 0xc2b2ae35;
  word ^= word >> 16;
  const auto bits = static_cast<float>(element % 32 < 16 ? word & 0xffff : word >> 16);
  return (2 * bits - 65535) / 131072;
}

int defined_stochastic_code(Codec codec, float value, float scale, float unit) {
  if (std::isnan(scale)) return 0;
  const float inverse = 1 / scale;
  const float quotient = value * inverse;
  const float shifted = quotient + unit;
  return std::clamp(static_cast<int>(std::nearbyint(shifted)), smallest_code(codec),
                    -smallest_code(codec) - 1);
}

Floats defined_result(Codec codec, const Floats& source, uint64_t key) {
  Floats result;
  for (std::size_t i = 0; i < source.size(); ++i) {
    const std::size_t begin = i - i % block_of(codec);
    const float scale = defined_stochastic_scale(codec, source.data() + begin,
                                                 std::min(block_of(codec), source.size() - begin));
    const int code = defined_stochastic_code(codec, source[i], scale, defined_unit(key, i));
    result.push_back(std::isnan(scale) ? kNan : code == 0 ? 0 : static_cast<float>(code) * scale);
  }
  return result;
}

bool same_or_nan(const Floats& a, const Floats& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
    return same_bits(x, y) || (std::isnan(x) && std::isnan(y));
  });
}

TEST(every_variant_rounds_as_defined) {
  std::vector<Floats> arrays = {random_bits(3000, 1), finite_bits(3000, 2)};
  for (const std::size_t count : {0u, 1u, 31u, 33u, 63u, 65u, 500u, 1024u, 1025u, 4099u})
    arrays.push_back(random_floats(count, static_cast<uint32_t>(count)));
  for (const cpu::Variant* variant : cpu::usable_variants()) {
    for (const Codec codec : kBlockCodecs) {
      const CodecKernels& kernels = *variant->find_codec(codec);
      for (const Floats& source : arrays) {
        for (const uint64_t key : {uint64_t{0}, uint64_t{0x123456789abcdef0}}) {
          const Bytes bytes = encoded_by(kernels, codec, source, key);
          const Floats result = decoded(kernels, bytes, source.size());
          CHECK(same_or_nan(result, defined_result(codec, source, key)));
        }
      }
    }
  }
}

// Also without a step of its own for what is lost, which the variants compute alike.
TEST(a_residual_holds_what_is_lost) {
  for (const cpu::Variant* variant : cpu::usable_variants()) {
    for (const Codec codec : kBlockCodecs) {
      const CodecKernels& kernels = *variant->find_codec(codec);
      Floats source = random_floats(2500, 3);
      source[100] = kInfinity;
      const Floats old = random_floats(2500, 4, 0.1F);
      Floats sums(2500);
      for (std::size_t i = 0; i < sums.size(); ++i) sums[i] = source[i] + old[i];
      Floats residual = old;
      const Bytes bytes = encoded_by(kernels, codec, source, 77, &residual);
      CHECK(bytes == encoded_by(kernels, codec, sums, 77));
      const Floats result = decoded(kernels, bytes, sums.size());
      for (std::size_t i = 0; i < sums.size(); ++i) {
        CHECK(residual[i] == (std::isfinite(result[i]) ? sums[i] - result[i] : old[i]));
      }
    }
  }
}

#if defined(__x86_64__)

TEST(the_largest_numbers_stay_finite) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  const float largest_scale_fits = 3.36e38F;
  for (const cpu::Variant* variant : cpu::usable_variants()) {
    for (const Codec codec : {Codec::kInt8, Codec::kInt4}) {
      const CodecKernels& kernels = *variant->find_codec(codec);
      for (const float extreme : {kLargest, -kLargest, largest_scale_fits}) {
        const Floats source(1280, extreme);
        for (uint64_t key = 0; key < 8; ++key) {
          Floats residual(source.size());
          const Bytes encoded = encoded_by(kernels, codec, source, key, &residual);
          Floats decoded(source.size());
          kernels.decode(encoded.data(), decoded.data(), decoded.size());
          for (std::size_t i = 0; i < source.size(); ++i) {
            CHECK(std::isfinite(decoded[i]));
            CHECK(std::isfinite(residual[i]));
            CHECK(std::fabs(decoded[i] / extreme - 1) < (codec == Codec::kInt8 ? 0.012F : 0.15F));
          }
        }
      }
    }
  }
}

TEST(flushing_subnormals_changes_no_stochastic_encoding) {
  constexpr unsigned kFlush = 0x8040;  // of operands and results
  Floats source = random_bits(4096, 6);
  for (float& value : source)  // below 2^-109, and half of them subnormal
    value = std::bit_cast<float>(std::bit_cast<uint32_t>(value) & 0x80ffffff);
  for (std::size_t i = 0; i < source.size(); i += 256) source[i] = 0x1p-110F;
  for (const cpu::Variant* variant : cpu::usable_variants()) {
    for (const Codec codec : kBlockCodecs) {
      const CodecKernels& kernels = *variant->find_codec(codec);
      const Bytes bytes = encoded_by(kernels, codec, source, 5);
      const unsigned before = _mm_getcsr();
      _mm_setcsr(before | kFlush);
      const Bytes flushed = encoded_by(kernels, codec, source, 5);
      _mm_setcsr(before);
      CHECK(bytes == flushed);
    }
  }
}

#endif

// One encoding has a variance of at most step^2 / 4, and a bias of at most 2^-15 step (the random
// unit's step, and rounding quotient and sum). Six standard deviations: one failure in 10^8.
TEST(the_mean_of_many_encodings_is_the_number) {
  constexpr int kKeys = 20'000;
  Floats source = random_floats(300, 5);
  source[7] = -source[6];
  for (const Codec codec : kBlockCodecs) {
    const CodecKernels& kernels = *cpu::active_variant().find_codec(codec);
    std::vector<double> sums(source.size());
    for (int number = 0; number < kKeys; ++number) {
      const uint64_t key = derived_key(9, static_cast<uint64_t>(number));
      const Floats result =
          decoded(kernels, encoded_by(kernels, codec, source, key), source.size());
      for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += result[i];
    }
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const std::size_t begin = i - i % block_of(codec);
      const double step = std::fabs(double{defined_stochastic_scale(
          codec, source.data() + begin, std::min(block_of(codec), source.size() - begin))});
      const double bound = step * (6 * 0.5 / std::sqrt(kKeys) + std::ldexp(1, -15));
      CHECK(std::fabs(sums[i] / kKeys - source[i]) <= bound);
    }
  }
}

// Over all pairs of neighbours and of words: as often both up as for independent bits.
TEST(the_bits_of_elements_and_keys_are_independent) {
  constexpr std::size_t kCount = 1 << 16;
  const auto ups = [](uint64_t key) {
    std::vector<int> up(kCount);
    for (std::size_t i = 0; i < kCount; ++i) up[i] = defined_unit(key, i) > 0 ? 1 : -1;
    return up;
  };
  const std::vector<int> first = ups(derived_key(1, 0));
  const auto correlation = [&](const std::vector<int>& other, std::size_t distance) {
    int64_t sum = 0;
    for (std::size_t i = 0; i + distance < kCount; ++i)
      sum += int64_t{first[i]} * other[i + distance];
    return std::fabs(static_cast<double>(sum)) / std::sqrt(double{kCount});
  };
  CHECK(correlation(std::vector<int>(kCount, 1), 0) < 6);
  for (const std::size_t distance : {1u, 2u, 8u, 16u, 32u, 64u, 1024u})
    CHECK(correlation(first, distance) < 6);
  for (const uint64_t number : {1u, 2u, 3u}) {
    const std::vector<int> other = ups(derived_key(1, number));
    for (const std::size_t distance : {0u, 1u, 16u, 32u}) CHECK(correlation(other, distance) < 6);
  }
}

}  // namespace
}  // namespace fastgpu
