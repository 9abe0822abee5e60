// Compares the codec topk with its definition in docs/compression.md, on every SIMD variant.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "check.h"
#include "codec/codec.h"
#include "kernels/cpu/variant.h"
#include "unit/codec_cases.h"

namespace fastgpu::codec_cases {
namespace {

// All NaN are equal, and above infinity.
double magnitude(float value) { return std::isnan(value) ? 2.0 * kLargest * 2 : std::fabs(value); }

// The indices of the entries, in all blocks.
std::vector<std::size_t> defined_entries(const Floats& values) {
  std::vector<std::size_t> entries;
  for (std::size_t first = 0; first < values.size(); first += kTopkBlock) {
    std::vector<std::size_t> block(std::min<std::size_t>(kTopkBlock, values.size() - first));
    std::iota(block.begin(), block.end(), first);
    std::stable_sort(block.begin(), block.end(), [&](std::size_t a, std::size_t b) {
      return magnitude(values[a]) > magnitude(values[b]);
    });
    block.resize((block.size() + kTopkShare - 1) / kTopkShare);
    std::sort(block.begin(), block.end());
    entries.insert(entries.end(), block.begin(), block.end());
  }
  return entries;
}

// The nearest power of two, the larger of two.
double nearest_power(float value) {
  int exponent = 0;
  const double fraction = std::frexp(std::fabs(double{value}), &exponent);
  return std::ldexp(fraction >= 0.75 ? 1 : 0.5, exponent);
}

struct DefinedTopk {
  Bytes bytes;
  Floats result;
};

// The largest of a block decides the power of two of code 7; code 0 is 0.
DefinedTopk defined_topk(const Floats& values) {
  const std::vector<std::size_t> entries = defined_entries(values);
  DefinedTopk defined{{}, Floats(values.size(), 0.0F)};
  Bytes words;
  for (std::size_t k = 0; k < entries.size();) {
    const std::size_t block = entries[k] / kTopkBlock;
    std::size_t end = k;
    double largest = 0;
    for (; end < entries.size() && entries[end] / kTopkBlock == block; ++end)
      largest = std::max(largest, magnitude(values[entries[end]]));
    const bool finite = largest <= double{kLargest};
    int top = -119;
    if (finite && largest > 0)
      top = std::clamp(std::ilogb(nearest_power(static_cast<float>(largest))), -119, 127);
    defined.bytes.push_back(static_cast<std::byte>(finite ? top + 127 : 255));
    for (; k < end; ++k) {
      const float value = values[entries[k]];
      int code = 0;
      if (finite && value != 0) code = std::clamp(std::ilogb(nearest_power(value)) - top + 7, 0, 7);
      const double decoded = code == 0 ? 0 : std::copysign(std::ldexp(1, top - 7 + code), value);
      defined.result[entries[k]] = finite ? static_cast<float>(decoded) : kNan;
      const auto word = static_cast<int>(entries[k] % kTopkBlock) | code << 12 |
                        (finite && std::signbit(value) ? 1 << 15 : 0);
      words.push_back(static_cast<std::byte>(word));
      words.push_back(static_cast<std::byte>(word >> 8));
    }
  }
  defined.bytes.insert(defined.bytes.end(), words.begin(), words.end());
  return defined;
}

// Blocks whose selection is not that of independent numbers.
std::vector<Floats> blocks() {
  std::vector<Floats> arrays;
  for (const std::size_t count : {4095, 4096, 4097, 4160, 4161, 8191, 12'300}) {
    const auto seed = static_cast<uint32_t>(count);
    arrays.push_back(random_floats(count, seed));
    arrays.push_back(random_bits(count, seed));
    arrays.push_back(finite_bits(count, seed));
    arrays.emplace_back(count, 0.0F);
    arrays.emplace_back(count, -3.5F);
    arrays.emplace_back(count, kNan);
    arrays.emplace_back(count, -kSmallest);
    Floats ties = random_floats(count, seed);
    for (float& value : ties) value = std::nearbyint(value);
    arrays.push_back(ties);
    Floats ascending(count);
    for (std::size_t i = 0; i < count; ++i) ascending[i] = static_cast<float>(i) - 1000;
    arrays.push_back(ascending);
    Floats one_column(count, 1e-30F);
    for (std::size_t i = 17; i < count; i += 256) one_column[i] = static_cast<float>(i);
    arrays.push_back(one_column);
    Floats few(count, 0.0F);
    for (std::size_t i = 5; i < count; i += 1000) few[i] = -1e-42F;
    arrays.push_back(few);
  }
  return arrays;
}

std::vector<Floats> all_arrays() {
  std::vector<Floats> arrays = special_arrays();
  for (const std::vector<Floats>& more : {arrays_of_all_counts(), blocks()})
    arrays.insert(arrays.end(), more.begin(), more.end());
  return arrays;
}

}  // namespace

TEST(topk_encodes_as_defined) {
  for (const Floats& source : all_arrays()) {
    const DefinedTopk defined = defined_topk(source);
    for (const cpu::Variant* variant : cpu::usable_variants()) {
      const CodecKernels& kernels = *variant->find_codec(Codec::kTopk);
      CHECK(encoded(kernels, Codec::kTopk, source) == defined.bytes);
      CHECK(same_bits(decoded(kernels, defined.bytes, source.size()), defined.result));
    }
  }
}

// An element that is left out is no larger than the smallest entry of its block. The nearest power
// of two is off by a third at most, at 1.5 times a power; below 3/2 x 2^-7 of the largest power an
// entry becomes 0.
TEST(the_error_of_topk_is_bounded) {
  const CodecKernels& kernels = *find_codec(Codec::kTopk);
  for (const Floats& source : all_arrays()) {
    if (!std::all_of(source.begin(), source.end(), [](float x) { return std::isfinite(x); }))
      continue;
    const Floats result = decoded(kernels, encoded(kernels, Codec::kTopk, source), source.size());
    const std::vector<std::size_t> entries = defined_entries(source);
    std::vector<double> smallest(source.size() / kTopkBlock + 1, kLargest);
    std::vector<double> largest(smallest.size(), 0);
    for (const std::size_t i : entries) {
      const std::size_t block = i / kTopkBlock;
      smallest[block] = std::min(smallest[block], magnitude(source[i]));
      largest[block] = std::max(largest[block], magnitude(source[i]));
    }
    for (std::size_t i = 0; i < source.size(); ++i) {
      const std::size_t block = i / kTopkBlock;
      const double error = std::fabs(double{source[i]} - double{result[i]});
      if (std::binary_search(entries.begin(), entries.end(), i)) {
        // 2^127 is the largest power: numbers above 1.5 x 2^127 lose more than a third.
        const double share = source[i] > 0x1.8p127F || source[i] < -0x1.8p127F ? 0.5 : 1.0 / 3;
        const double least = std::max(largest[block] * 4 / 3, 0x1p-119) * 0x1.8p-7;
        CHECK(error <= std::max(share * magnitude(source[i]), least));
      } else {
        CHECK(error <= smallest[block]);
      }
    }
  }
}

TEST(topk_feedback_keeps_what_was_left_out) {
  for (const Floats& source : blocks()) {
    const Floats before = random_floats(source.size(), 6, 1e-2F);
    Floats values(source.size());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = source[i] + before[i];
    const DefinedTopk defined = defined_topk(values);
    for (const cpu::Variant* variant : cpu::usable_variants()) {
      const CodecKernels& kernels = *variant->find_codec(Codec::kTopk);
      Floats residual = before;
      CHECK(encoded(kernels, Codec::kTopk, source, &residual) == defined.bytes);
      for (std::size_t i = 0; i < values.size(); ++i) {
        const bool finite = defined.bytes[i / kTopkBlock] != std::byte{255};
        CHECK(same_bits(residual[i], finite ? values[i] - defined.result[i] : before[i]));
      }
    }
  }
}

TEST(topk_carries_a_number_that_is_not_finite_and_leaves_other_blocks) {
  const CodecKernels& kernels = *find_codec(Codec::kTopk);
  for (const float special : {kInfinity, -kInfinity, kNan}) {
    for (std::size_t at = 0; at < 9000; at += 613) {
      Floats source = random_floats(9000, 9);
      const Floats before = decoded(kernels, encoded(kernels, Codec::kTopk, source), source.size());
      source[at] = special;
      const Floats after = decoded(kernels, encoded(kernels, Codec::kTopk, source), source.size());
      CHECK(std::isnan(after[at]));
      for (std::size_t i = 0; i < source.size(); ++i) {
        if (i / kTopkBlock != at / kTopkBlock) CHECK(same_bits(after[i], before[i]));
      }
    }
  }
}

TEST(topk_ignores_indices_beyond_the_end) {
  for (const std::size_t count : {1, 70, 4097}) {
    Bytes bytes(encoded_bytes(Codec::kTopk, count), std::byte{0xff});
    for (const cpu::Variant* variant : cpu::usable_variants()) {
      const CodecKernels& kernels = *variant->find_codec(Codec::kTopk);
      const Floats sum(count, 1);
      const Floats result = decoded(kernels, bytes, count, &sum);
      const Floats plain = decoded(kernels, bytes, count);
      for (std::size_t i = 0; i < count; ++i) {
        if (i != kTopkBlock - 1) {
          CHECK_EQ(result[i], 1.0F);
          CHECK_EQ(plain[i], 0.0F);
        }
      }
    }
  }
}

// With topk an element waits until its residual is among the largest, so that more steps pass.
TEST(topk_sends_everything_in_time) {
  const CodecKernels& kernels = *find_codec(Codec::kTopk);
  const Floats source = random_floats(5000, 11);
  Floats residual(source.size());
  std::vector<double> total(source.size());
  constexpr int kSteps = 2000;
  for (int step = 0; step < kSteps; ++step) {
    const Floats result =
        decoded(kernels, encoded(kernels, Codec::kTopk, source, &residual), source.size());
    for (std::size_t i = 0; i < total.size(); ++i) total[i] += result[i];
  }
  for (std::size_t i = 0; i < total.size(); ++i) {
    const double exact = double{source[i]} * kSteps;
    CHECK(std::fabs(total[i] + residual[i] - exact) < 1e-2);
    // The smallest that was sent is about the sum of all divided by the entries of a step.
    CHECK(std::fabs(residual[i]) < 2 * kTopkShare);
  }
}

}  // namespace fastgpu::codec_cases
