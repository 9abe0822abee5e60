// The codecs' formats and error bounds by their definition in docs/compression.md, arrays to try
// them on, and calls of the kernels on guarded arrays.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/codec.h"
#include "check.h"
#include "kernels/kernel.h"

namespace fastgpu::codec_cases {

using Floats = std::vector<float>;
using Bytes = std::vector<std::byte>;

inline constexpr std::array kCodecs = {Codec::kFloat16, Codec::kBFloat16, Codec::kInt8,
                                       Codec::kInt4,    Codec::kTopk,     Codec::kOneBit};
// Those that lose no more than a part of the block's largest magnitude.
inline constexpr std::array kBoundedCodecs = {Codec::kFloat16, Codec::kBFloat16, Codec::kInt8,
                                              Codec::kInt4, Codec::kOneBit};
inline constexpr std::array kBlockCodecs = {Codec::kInt8, Codec::kInt4};
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kLargest = std::numeric_limits<float>::max();
inline constexpr float kSmallest = std::numeric_limits<float>::denorm_min();
inline constexpr std::size_t kGuard = 64;
inline constexpr std::byte kGuardByte{0xa5};
inline constexpr float kGuardFloat = 12345.5F;

inline std::size_t block_of(Codec codec) {
  if (codec == Codec::kOneBit) return kOneBitBlock;
  return codec == Codec::kInt8 ? kInt8Block : kInt4Block;
}
inline int smallest_code(Codec codec) { return codec == Codec::kInt8 ? -128 : -8; }

inline bool same_bits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

inline bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(),
                                            [](float x, float y) { return same_bits(x, y); });
}

// Each helper gives a kernel an array with guards on both sides, and checks the guards.
inline Bytes encoded(const CodecKernels& kernels, Codec codec, const Floats& source,
                     Floats* residual = nullptr) {
  const std::size_t size_bytes = encoded_bytes(codec, source.size());
  Bytes target(size_bytes + 2 * kGuard, kGuardByte);
  if (residual == nullptr) {
    kernels.encode(source.data(), target.data() + kGuard, source.size());
  } else {
    Floats guarded(source.size() + 2 * kGuard, kGuardFloat);
    std::copy(residual->begin(), residual->end(), guarded.begin() + kGuard);
    kernels.encode_feedback(source.data(), guarded.data() + kGuard, target.data() + kGuard,
                            source.size());
    std::copy_n(guarded.begin() + kGuard, source.size(), residual->begin());
    CHECK(std::count(guarded.begin(), guarded.begin() + kGuard, kGuardFloat) == kGuard);
    CHECK(std::count(guarded.end() - kGuard, guarded.end(), kGuardFloat) == kGuard);
  }
  CHECK(std::count(target.begin(), target.begin() + kGuard, kGuardByte) == kGuard);
  CHECK(std::count(target.end() - kGuard, target.end(), kGuardByte) == kGuard);
  target.resize(size_bytes + kGuard);
  target.erase(target.begin(), target.begin() + kGuard);
  return target;
}

inline Floats decoded(const CodecKernels& kernels, const Bytes& source, std::size_t count,
                      const Floats* sum = nullptr) {
  Floats target(count + 2 * kGuard, kGuardFloat);
  if (sum == nullptr) {
    kernels.decode(source.data(), target.data() + kGuard, count);
  } else {
    std::copy(sum->begin(), sum->end(), target.begin() + kGuard);
    kernels.decode_add(source.data(), target.data() + kGuard, count);
  }
  CHECK(std::count(target.begin(), target.begin() + kGuard, kGuardFloat) == kGuard);
  CHECK(std::count(target.end() - kGuard, target.end(), kGuardFloat) == kGuard);
  return {target.begin() + kGuard, target.end() - kGuard};
}

inline Floats random_floats(std::size_t count, uint32_t seed, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  Floats values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// Random bits: all magnitudes, some of them infinite or NaN.
inline Floats random_bits(std::size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  Floats values(count);
  for (float& value : values) value = std::bit_cast<float>(static_cast<uint32_t>(random()));
  return values;
}

inline Floats finite_bits(std::size_t count, uint32_t seed) {
  Floats values = random_bits(count, seed);
  for (float& value : values) value = std::isfinite(value) ? value : kLargest;
  return values;
}

// The number of largest magnitude, the negative one of two; NaN if the block is not finite.
inline float defined_extreme(const float* block, std::size_t count) {
  float extreme = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (!std::isfinite(block[i])) return kNan;
    const bool larger = std::fabs(block[i]) > std::fabs(extreme);
    const bool negative_of_two =
        std::fabs(block[i]) == std::fabs(extreme) && std::signbit(block[i]);
    if (larger || negative_of_two) extreme = block[i];
  }
  return extreme;
}

// The scale of a block by definition: extreme / smallest code, rounded away from zero to 8
// significant bits, at least 2^-125 and at most the largest bfloat16 / -smallest code. NaN if the
// block is not finite.
inline float defined_scale(Codec codec, const float* block, std::size_t count) {
  const float extreme = defined_extreme(block, count);
  if (std::isnan(extreme)) return kNan;
  int exponent = 0;
  const double fraction = std::frexp(std::fabs(double{extreme}), &exponent);
  double magnitude = std::ldexp(std::ceil(fraction * 256), exponent - 8);
  magnitude = std::min(magnitude, std::ldexp(255, 120)) / -smallest_code(codec);
  magnitude = std::max(magnitude, std::ldexp(1, -125));
  return static_cast<float>(std::signbit(extreme) ? magnitude : -magnitude);
}

inline int defined_code(Codec codec, float value, float scale) {
  if (std::isnan(scale)) return 0;
  const float inverse = 1 / scale;
  const int nearest = static_cast<int>(std::nearbyint(value * inverse));
  return std::clamp(nearest, smallest_code(codec), -smallest_code(codec) - 1);
}

inline Bytes defined_encoding(Codec codec, const Floats& source) {
  const std::size_t blocks = (source.size() + block_of(codec) - 1) / block_of(codec);
  Bytes scales(blocks * kScaleBytes);
  Bytes codes;
  for (std::size_t b = 0; b < blocks; ++b) {
    const float* block = source.data() + b * block_of(codec);
    const std::size_t count = std::min(block_of(codec), source.size() - b * block_of(codec));
    const float scale = defined_scale(codec, block, count);
    const auto upper = static_cast<uint16_t>(std::bit_cast<uint32_t>(scale) >> 16);
    std::memcpy(scales.data() + b * kScaleBytes, &upper, sizeof upper);
    const std::size_t half = (count + 1) / 2;
    for (std::size_t i = 0; i < (codec == Codec::kInt8 ? count : half); ++i) {
      int code = defined_code(codec, block[i], scale);
      if (codec == Codec::kInt4) {
        const int second = half + i < count ? defined_code(codec, block[half + i], scale) : 0;
        code = (code & 0xf) | (second & 0xf) << 4;
      }
      codes.push_back(static_cast<std::byte>(code));
    }
  }
  scales.insert(scales.end(), codes.begin(), codes.end());
  return scales;
}

// The bound on the error of one element of a block with this largest magnitude. A value of the sign
// opposite to the extreme's may be a whole step from the largest code, or one and a half where the
// scale could not be rounded away from zero.
inline double error_bound(Codec codec, float value, float largest) {
  switch (codec) {
    case Codec::kFloat16:
      return std::max(std::ldexp(std::fabs(double{value}), -11), std::ldexp(1, -25));
    case Codec::kBFloat16:
      return std::max(std::ldexp(std::fabs(double{value}), -8), std::ldexp(1, -134));
    case Codec::kOneBit:  // the scale is at most the largest magnitude, rounded
      return double{largest} * (1 + std::ldexp(1, -7));
    default: {
      const double steps = largest > std::ldexp(255, 120) ? 1.51 : 1 + std::ldexp(1, -7);
      return std::max(double{largest} / -smallest_code(codec) * steps, std::ldexp(1, -125));
    }
  }
}

inline float largest_magnitude(const float* block, std::size_t count) {
  float largest = 0;
  for (std::size_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(block[i]));
  return largest;
}

inline void check_error(Codec codec, const Floats& source, const Floats& result) {
  CHECK_EQ(source.size(), result.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    const std::size_t first = i - i % block_of(codec);
    const float largest =
        largest_magnitude(source.data() + first, std::min(block_of(codec), source.size() - first));
    const double bound = error_bound(codec, source[i], largest);
    const double error = std::fabs(double{source[i]} - double{result[i]});
    if (!(error <= bound)) {
      test::fail(__FILE__, __LINE__,
                 std::string(name_of(codec)) + " of " + std::to_string(source[i]) + " gives " +
                     std::to_string(result[i]) + "; the bound is " + std::to_string(bound));
    }
  }
}

// Arrays with special values in different places of blocks.
inline std::vector<Floats> special_arrays() {
  std::vector<Floats> arrays = {
      Floats(200, 0.0F),      Floats(200, -0.0F),    Floats(200, 1.0F),     Floats(200, -3.7F),
      Floats(200, kSmallest), Floats(200, -1e-39F),  Floats(200, kLargest), Floats(200, -kLargest),
      Floats(200, 0x1p-125F), Floats(200, 0x1p-126F)};
  for (const float special : {kInfinity, -kInfinity, kNan, -kNan, kLargest, -kLargest, kSmallest,
                              -0.0F, 65519.9F, 65520.0F, 0x1.ffp127F, -0x1.ffp127F}) {
    for (const std::size_t at : {0, 31, 32, 100, 127, 190}) {
      arrays.push_back(random_floats(200, static_cast<uint32_t>(at)));
      arrays.back()[at] = special;
    }
  }
  Floats largest(256, kLargest);
  for (std::size_t i = 0; i < largest.size(); i += 3) largest[i] = -kLargest;
  arrays.push_back(largest);
  // Halves of steps.
  Floats steps(256);
  for (std::size_t i = 0; i < steps.size(); ++i)
    steps[i] = 0.5F * static_cast<float>(static_cast<int>(i) - 128);
  arrays.push_back(steps);
  for (uint32_t seed = 0; seed < 20; ++seed) arrays.push_back(random_bits(200 + seed, seed));
  for (uint32_t seed = 0; seed < 20; ++seed) arrays.push_back(finite_bits(200 + seed, seed));
  return arrays;
}

inline std::vector<Floats> arrays_of_all_counts() {
  std::vector<Floats> arrays;
  for (uint32_t count = 0; count <= 300; ++count) arrays.push_back(random_floats(count, count));
  for (const uint32_t count : {511u, 512u, 513u, 1023u, 1025u, 2048u, 4099u, 70001u})
    arrays.push_back(random_floats(count, count, 1e-3F));
  return arrays;
}

}  // namespace fastgpu::codec_cases
