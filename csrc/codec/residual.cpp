#include "codec/residual.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/codec.h"
#include "codec/codec.h"
#include "codec/random_key.h"

namespace fastgpu {
namespace {

// Blocks are converted in groups, on the stack.
constexpr std::size_t kGroup = 32 * kInt8Block;
using Group = std::array<float, kGroup>;
using Encoded = std::array<std::byte, encoded_bytes(Codec::kInt8, kGroup)>;

constexpr std::size_t blocks_of(std::size_t count) { return (count + kInt8Block - 1) / kInt8Block; }

void load_group(const Residual& residual, std::size_t begin, std::size_t count, float* values) {
  Encoded encoded;
  const std::size_t scales_bytes = blocks_of(count) * kScaleBytes;
  std::memcpy(encoded.data(), residual.scales + begin / kInt8Block * kScaleBytes, scales_bytes);
  std::memcpy(encoded.data() + scales_bytes, residual.codes + begin, count);
  find_codec(Codec::kInt8)->decode(encoded.data(), values, count);
}

// Rounding a rounded number again may change it, so a block that shall stay is not written.
void store_group(const float* values, const float* old, std::size_t begin, std::size_t count,
                 const Residual& residual) {
  Encoded encoded;
  find_codec(Codec::kInt8)->encode(values, encoded.data(), count);
  const std::byte* codes = encoded.data() + blocks_of(count) * kScaleBytes;
  for (std::size_t i = 0; i < count; i += kInt8Block) {
    const std::size_t length = std::min(kInt8Block, count - i);
    if (std::memcmp(values + i, old + i, length * sizeof(float)) == 0) continue;
    std::memcpy(residual.scales + (begin + i) / kInt8Block * kScaleBytes,
                encoded.data() + i / kInt8Block * kScaleBytes, kScaleBytes);
    std::memcpy(residual.codes + begin + i, codes + i, length);
  }
}

// Calls body(begin, group_count, from, to) for each group that has elements of [first, last): the
// group has elements from `begin` on, and [from, to) is its part of [first, last).
template <typename Body>
void for_groups(const Residual& residual, std::size_t first, std::size_t last, const Body& body) {
  for (std::size_t from = first; from < last;) {
    const std::size_t begin = from / kInt8Block * kInt8Block;
    const std::size_t to = std::min(begin + kGroup, last);
    const std::size_t end = std::min(blocks_of(to) * kInt8Block, residual.count);
    body(begin, end - begin, from, to);
    from = to;
  }
}

void store_range(const float* values, std::size_t first, std::size_t count,
                 const Residual& residual) {
  Group old;
  Group changed;
  for_groups(residual, first, first + count,
             [&](std::size_t begin, std::size_t length, std::size_t from, std::size_t to) {
               load_group(residual, begin, length, old.data());
               const float* wanted = values + (from - first);
               if (to - from < length) {
                 changed = old;
                 std::copy_n(wanted, to - from, changed.data() + (from - begin));
                 wanted = changed.data();
               }
               store_group(wanted, old.data(), begin, length, residual);
             });
}

bool all_zero(std::span<const float> values) {
  bool zero = true;
  for (const float each : values) zero &= each == 0;
  return zero;
}

// Adds `lost` to the values and sets it to 0, except where the sum is not finite. A value to which
// 0 is added stays as it is, also if it is -0: the result must not depend on how groups are cut.
void deliver(std::span<float> lost, float* values) {
  for (std::size_t i = 0; i < lost.size(); ++i) {
    const float sum = values[i] + lost[i];
    if (lost[i] == 0 || !std::isfinite(sum)) continue;
    values[i] = sum;
    lost[i] = 0;
  }
}

// If the values are multiples of their extreme / -127 in a bfloat16, stores them exactly. The scale
// of int8 is extreme / -128, rounded, so it may not be the one that a decoded block had.
void store_multiples(const float* values, std::size_t begin, std::size_t count,
                     const Residual& residual) {
  const float extreme = *std::max_element(
      values, values + count, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
  const float scale = extreme / -127;
  const auto bits = std::bit_cast<uint32_t>(scale);
  if ((bits & 0xffff) != 0) return;
  std::array<std::byte, kInt8Block> codes;
  for (std::size_t i = 0; i < count; ++i) {
    const float code = std::nearbyint(values[i] / scale);
    if (code * scale != values[i]) return;
    codes[i] = static_cast<std::byte>(static_cast<int8_t>(code));
  }
  const auto upper = static_cast<uint16_t>(bits >> 16);
  std::memcpy(residual.scales + begin / kInt8Block * kScaleBytes, &upper, kScaleBytes);
  std::memcpy(residual.codes + begin, codes.data(), count);
}

}  // namespace

void encode_with(const CodecKernels& kernels, const Residual& residual,
                 std::optional<uint64_t> random_key, std::size_t first,
                 std::span<const float> source, std::byte* target) {
  const std::size_t count = source.size();
  const auto encode = [&](float* lost) {
    if (random_key.has_value()) {
      const uint64_t key = derived_key(*random_key, first);
      kernels.encode_stochastic(source.data(), lost, target, count, key);
    } else if (lost != nullptr) {
      kernels.encode_feedback(source.data(), lost, target, count);
    } else {
      kernels.encode(source.data(), target, count);
    }
  };
  if (residual.codes == nullptr) {
    return encode(residual.values == nullptr ? nullptr : residual.values + first);
  }
  thread_local std::vector<float> values;  // of a chunk, as long as the thread lives
  values.resize(std::max(values.size(), count));
  load(residual, first, values.data(), count);
  encode(values.data());
  store_range(values.data(), first, count, residual);
}

void add_residual(const Residual& residual, std::size_t first, std::span<float> values) {
  if (residual.codes == nullptr && residual.values == nullptr) return;
  Group group;
  for (std::size_t done = 0; done < values.size(); done += kGroup) {
    const std::size_t count = std::min(kGroup, values.size() - done);
    std::span<float> lost(group.data(), count);
    if (residual.codes == nullptr) {
      lost = {residual.values + first + done, count};
    } else {
      load(residual, first + done, lost.data(), count);
    }
    if (all_zero(lost)) continue;
    deliver(lost, values.data() + done);
    if (residual.codes != nullptr) store_range(lost.data(), first + done, count, residual);
  }
}

void load(const Residual& residual, std::size_t first, float* values, std::size_t count) {
  Group group;
  for_groups(residual, first, first + count,
             [&](std::size_t begin, std::size_t length, std::size_t from, std::size_t to) {
               float* const target = values + (from - first);
               if (to - from == length) return load_group(residual, begin, length, target);
               load_group(residual, begin, length, group.data());
               std::copy_n(group.data() + (from - begin), to - from, target);
             });
}

void store(const float* values, const Residual& residual) {
  store_range(values, 0, residual.count, residual);
  Group stored;
  for (std::size_t begin = 0; begin < residual.count; begin += kInt8Block) {
    const std::size_t count = std::min(kInt8Block, residual.count - begin);
    load_group(residual, begin, count, stored.data());
    if (std::memcmp(values + begin, stored.data(), count * sizeof(float)) == 0) continue;
    store_multiples(values + begin, begin, count, residual);
  }
}

}  // namespace fastgpu
