#include "codec_case.h"

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "codec/codec.h"
#include "codec/residual.h"
#include "kernels/cuda/reduce.h"
#include "kernels/reduce.h"

namespace fastgpu::test {
namespace {

constexpr std::size_t kRun = 32;
constexpr std::size_t kGuardBytes = kInt8Block * sizeof(float);

std::size_t scales_bytes(Codec codec, std::size_t count) {
  if (!is_block_codec(codec)) return 0;
  const std::size_t block = codec == Codec::kInt8 ? kInt8Block : kInt4Block;
  return (count + block - 1) / block * kScaleBytes;
}

float* floats(const DeviceMemory& memory) { return reinterpret_cast<float*>(memory.data()); }

// An array of drawn numbers, with `guard_bytes` behind it.
DeviceMemory make_numbers(const CodecCase& codec_case, float most, std::size_t guard_bytes,
                          std::mt19937_64& random) {
  DeviceMemory numbers(codec_case.count * sizeof(float) + guard_bytes,
                       codec_case.shift * sizeof(float));
  if (codec_case.negative_zeros) {
    fill_negative_zeros(floats(numbers), codec_case.count);
  } else {
    fill_numbers(floats(numbers), codec_case.count, most, random);
  }
  return numbers;
}

// At a border of 16 bytes, as the kernels of the CPU need it.
DeviceMemory copy_of(const DeviceMemory& memory) {
  DeviceMemory copy(memory.size_bytes());
  std::memcpy(copy.data(), memory.data(), memory.size_bytes());
  return copy;
}

void add(float* target, const DeviceMemory& source, std::size_t count) {
  find_reduce(DType::kFloat32, ReduceOp::kSum)(reinterpret_cast<std::byte*>(target), source.data(),
                                               count);
}

}  // namespace

std::string describe(const CodecCase& codec_case) {
  return std::string(name_of(codec_case.codec)) + ", count " + std::to_string(codec_case.count) +
         ", shift " + std::to_string(codec_case.shift) + ", encoded shift " +
         std::to_string(codec_case.encoded_shift) + ", feedback " +
         std::to_string(codec_case.feedback) + ", stochastic " +
         std::to_string(codec_case.stochastic) + ", sources " + std::to_string(codec_case.sources) +
         ", plain at " + std::to_string(codec_case.plain_at) + ", seed " +
         std::to_string(codec_case.seed);
}

CodecCase draw_codec_case(Codec codec, uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto below = [&](uint64_t n) { return random() % n; };
  constexpr std::array<std::size_t, 10> kCounts = {0, 1, 31, 64, 65, 127, 333, 1024, 2111, 3072};
  CodecCase drawn;
  drawn.codec = codec;
  drawn.seed = seed;
  drawn.count = kCounts[below(kCounts.size())];
  if (below(2) == 0) {  // the codes at a border of 16 bytes, wherever that puts the scales
    drawn.encoded_shift = (16 - scales_bytes(codec, drawn.count) % 16) % 16;
  } else {
    drawn.shift = below(2) == 0 ? 1 + below(3) : 0;
    drawn.encoded_shift = below(16);
    if (!is_block_codec(codec)) drawn.encoded_shift -= drawn.encoded_shift % sizeof(uint16_t);
  }
  drawn.feedback = below(2) == 0;
  drawn.stochastic = below(3) == 0 && is_block_codec(codec);
  drawn.sources = 1 + static_cast<int>(below(device::kMaxSources));
  drawn.plain_at = static_cast<int>(below(static_cast<uint64_t>(drawn.sources) + 2)) - 1;
  drawn.factor = below(3) == 0 ? 1.0 / drawn.sources : 1;
  drawn.in_place = below(2) == 0;
  drawn.blocks = 1 + static_cast<unsigned>(below(2));
  drawn.threads = 32u << below(2);
  return drawn;
}

// The scales are negative, so that a code of 0 decodes to -0 before it is added.
void fill_negative_zeros(float* values, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) values[i] = i % kRun == 0 ? 1.0F : -0.0F;
}

void fill_numbers(float* values, std::size_t count, float most, std::mt19937_64& random) {
  std::normal_distribution<float> normal(0, 1);
  for (std::size_t begin = 0; begin < count; begin += kRun) {
    const std::size_t end = std::min(begin + kRun, count);
    if (random() % 16 == 0) {
      fill_negative_zeros(values + begin, end - begin);
      continue;
    }
    const uint64_t kind = random() % 14;
    constexpr float kLargest = std::numeric_limits<float>::max();
    constexpr std::array kFactors = {1.0F, 1e37F, 1e-30F, 1e-40F, 0.0F};
    const float factor = kind < kFactors.size() ? kFactors[kind] : 1.0F;
    const float constant = normal(random);
    for (std::size_t i = begin; i < end; ++i) {
      values[i] = kind == 5 ? constant : normal(random) * factor;
      if (kind == 6) values[i] = std::bit_cast<float>(static_cast<uint32_t>(random()));
      if (kind == 7) values[i] = i % 2 == 0 ? constant : -constant;
      if (kind == 9) values[i] = i % 2 == 0 ? kLargest : -kLargest;
      if (std::isfinite(values[i]) && std::fabs(values[i]) >= most) values[i] = constant;
    }
    if (kind != 8) continue;
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    constexpr std::array kSpecials = {kInfinity, -kInfinity,
                                      std::numeric_limits<float>::quiet_NaN()};
    values[begin + random() % (end - begin)] = kSpecials[random() % kSpecials.size()];
  }
}

EncodeData draw_encode(const CodecCase& codec_case) {
  std::mt19937_64 random(codec_case.seed);
  const std::size_t source_guard = codec_case.rounds_count_up ? kGuardBytes : 0;
  DeviceMemory source =
      make_numbers(codec_case, std::numeric_limits<float>::infinity(), source_guard, random);
  DeviceMemory residual = make_numbers(codec_case, 1e30F, kGuardBytes, random);
  const std::size_t size_bytes = encoded_bytes(codec_case.codec, codec_case.count) + kGuardBytes;
  const uint64_t key = random();

  DeviceMemory expected_residual = copy_of(residual);
  DeviceMemory expected(size_bytes);
  const DeviceMemory aligned = copy_of(source);
  const CodecKernels& kernels = *find_codec(codec_case.codec);
  float* const lost = codec_case.feedback ? floats(expected_residual) : nullptr;
  if (codec_case.stochastic) {
    kernels.encode_stochastic(floats(aligned), lost, expected.data(), codec_case.count, key);
  } else if (codec_case.feedback) {
    kernels.encode_feedback(floats(aligned), lost, expected.data(), codec_case.count);
  } else {
    kernels.encode(floats(aligned), expected.data(), codec_case.count);
  }

  return {.source = std::move(source),
          .residual = std::move(residual),
          .key = key,
          .size_bytes = size_bytes,
          .expected = std::move(expected),
          .expected_residual = std::move(expected_residual)};
}

DecodeData draw_decode(const CodecCase& codec_case) {
  std::mt19937_64 random(codec_case.seed);
  const CodecKernels& kernels = *find_codec(codec_case.codec);
  const std::size_t count = codec_case.count;
  DeviceMemory plain = make_numbers(codec_case, 1e30F, kGuardBytes, random);
  const DeviceMemory other(plain.size_bytes(), codec_case.shift * sizeof(float));
  const DeviceMemory& target = codec_case.in_place ? plain : other;
  const DeviceMemory aligned_plain = copy_of(plain);
  DeviceMemory expected = copy_of(target);

  std::vector<DeviceMemory> sources;
  for (int i = 0; i <= codec_case.sources; ++i) {
    if (i == codec_case.plain_at) {
      if (i == 0) std::memcpy(expected.data(), aligned_plain.data(), count * sizeof(float));
      if (i != 0) add(floats(expected), aligned_plain, count);
    }
    if (i == codec_case.sources) break;
    const DeviceMemory numbers =
        copy_of(make_numbers(codec_case, std::numeric_limits<float>::infinity(), 0, random));
    sources.emplace_back(encoded_bytes(codec_case.codec, count), codec_case.encoded_shift);
    const DeviceMemory encoded(sources.back().size_bytes());
    kernels.encode(floats(numbers), encoded.data(), count);
    std::memcpy(sources.back().data(), encoded.data(), encoded.size_bytes());
    const bool is_first = i == 0 && codec_case.plain_at != 0;
    (is_first ? kernels.decode : kernels.decode_add)(encoded.data(), floats(expected), count);
  }

  if (codec_case.factor != 1) scale(expected.data(), count, DType::kFloat32, codec_case.factor);

  return {
      .sources = std::move(sources), .plain = std::move(plain), .expected = std::move(expected)};
}

ResidualData draw_residual(const CodecCase& codec_case) {
  std::mt19937_64 random(codec_case.seed);
  constexpr float kAny = std::numeric_limits<float>::infinity();
  DeviceMemory values = make_numbers(codec_case, kAny, kGuardBytes, random);
  DeviceMemory residual = make_numbers(codec_case, kAny, kGuardBytes, random);
  DeviceMemory expected = copy_of(values);
  DeviceMemory expected_residual = copy_of(residual);
  Residual lost;
  lost.values = floats(expected_residual);
  add_residual(lost, 0, {floats(expected), codec_case.count});
  return {.values = std::move(values),
          .residual = std::move(residual),
          .expected = std::move(expected),
          .expected_residual = std::move(expected_residual)};
}

}  // namespace fastgpu::test
