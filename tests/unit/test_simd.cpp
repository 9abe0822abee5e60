// Every SIMD variant gives the bits of the base variant, for any count and start, and changes no
// other memory.
#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "kernels/cpu/variant.h"
#include "kernels/reduce.h"
#include "unit/reduce_cases.h"

namespace fastgpu {
namespace {

using Bytes = std::vector<std::byte>;
using test::all_dtypes;
using test::all_reduce_ops;
using test::has_meaning;

Bytes random_bytes(std::size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  Bytes bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

struct Range {
  std::size_t start;
  std::size_t count;
};

// Runs a kernel of the variant on copies, from element `range.start` on. Returns all bytes of the
// target, including those around the range.
Bytes reduced(const cpu::Variant& variant, DType dtype, ReduceOp op, Bytes target,
              const Bytes& source, Range range) {
  const std::size_t offset_bytes = range.start * size_of(dtype);
  variant.find_reduce(dtype, op)(target.data() + offset_bytes, source.data() + offset_bytes,
                                 range.count);
  return target;
}

// The bytes of special values: zeros, subnormals, largest numbers, infinities and NaN. Dtypes other
// than float32, float64 and complex get a sample of all 16-bit patterns.
Bytes special_bytes(DType dtype) {
  Bytes bytes;
  const auto add = [&bytes](auto number) {
    const auto* raw = reinterpret_cast<const std::byte*>(&number);
    bytes.insert(bytes.end(), raw, raw + sizeof(number));
  };
  if (dtype == DType::kFloat64 || dtype == DType::kComplex128) {
    for (const uint64_t bits :
         {0x0ull, 0x1ull, 0x000fffffffffffffull, 0x3ff0000000000000ull, 0x7fefffffffffffffull,
          0x7ff0000000000000ull, 0x7ff0000000000001ull, 0x7ff8000000000123ull}) {
      add(bits);
      add(bits | 1ull << 63);
    }
  } else if (dtype == DType::kFloat32 || dtype == DType::kComplex64) {
    for (const uint32_t bits : {0x0u, 0x1u, 0x007fffffu, 0x3f800000u, 0x7f7fffffu, 0x7f800000u,
                                0x7f800001u, 0x7fc00123u}) {
      add(bits);
      add(bits | 1u << 31);
    }
  } else {
    for (uint32_t value = 0; value < 1u << 16; value += 0xfd) add(static_cast<uint16_t>(value));
  }
  return bytes;
}

// Whether find_reduce_both's kernel, if there is one, leaves the expected result in both ranges.
bool both_hold(const cpu::Variant& variant, DType dtype, ReduceOp op, Bytes target, Bytes source,
               Range range) {
  const ReduceBothKernel kernel = variant.find_reduce_both(dtype, op);
  if (kernel == nullptr) return true;
  const Bytes expected = reduced(variant, dtype, op, target, source, range);
  const std::size_t start = range.start * size_of(dtype);
  const std::size_t size_bytes = range.count * size_of(dtype);
  Bytes expected_source = source;
  if (size_bytes > 0) {
    std::memcpy(expected_source.data() + start, expected.data() + start, size_bytes);
  }
  kernel(target.data() + start, source.data() + start, range.count);
  return target == expected && source == expected_source;
}

void check_same_bits(DType dtype, const Bytes& target, const Bytes& source, Range range) {
  for (const ReduceOp op : all_reduce_ops()) {
    if (!has_meaning(dtype, op)) continue;
    const Bytes expected = reduced(cpu::kBaseVariant, dtype, op, target, source, range);
    for (const cpu::Variant* variant : cpu::usable_variants()) {
      if (reduced(*variant, dtype, op, target, source, range) != expected)
        test::fail(__FILE__, __LINE__,
                   std::string(variant->name) + " differs from base: " + std::string(name_of(op)) +
                       " of " + std::to_string(range.count) + " " + std::string(name_of(dtype)) +
                       " from element " + std::to_string(range.start));
      CHECK(both_hold(*variant, dtype, op, target, source, range));
    }
  }
}

// Reduces special values with each other.
void check_special_pairs(DType dtype) {
  const Bytes special = special_bytes(dtype);
  const std::size_t size = size_of(dtype);
  const std::size_t values = special.size() / size;
  Bytes target;
  Bytes source;
  for (std::size_t shift = 0; shift < std::min<std::size_t>(values, 32); ++shift) {
    target.insert(target.end(), special.begin(), special.end());
    const auto turn = special.begin() + static_cast<std::ptrdiff_t>(shift * size);
    source.insert(source.end(), turn, special.end());
    source.insert(source.end(), special.begin(), turn);
  }
  check_same_bits(dtype, target, source, {0, target.size() / size});
}

}  // namespace

TEST(reduce_into_itself) {
  for (const DType dtype : all_dtypes()) {
    const Bytes bytes = random_bytes(67 * size_of(dtype), 5);
    for (const ReduceOp op : all_reduce_ops()) {
      if (!has_meaning(dtype, op)) continue;
      for (const cpu::Variant* variant : cpu::usable_variants()) {
        Bytes same = bytes;
        variant->find_reduce(dtype, op)(same.data(), same.data(), 67);
        CHECK(same == reduced(cpu::kBaseVariant, dtype, op, bytes, bytes, {0, 67}));
      }
    }
  }
}

TEST(sums_of_floating_point_numbers_can_be_left_in_both) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    for (const cpu::Variant* variant : cpu::usable_variants()) {
      CHECK(variant->find_reduce_both(dtype, ReduceOp::kSum) != nullptr);
      CHECK(variant->find_reduce_both(dtype, ReduceOp::kMax) == nullptr);
    }
  }
}

TEST(reduce_variants_give_the_bits_of_the_base) {
  constexpr std::size_t kElements = 200;
  for (const DType dtype : all_dtypes()) {
    const Bytes target = random_bytes(kElements * size_of(dtype), 1);
    const Bytes source = random_bytes(kElements * size_of(dtype), 2);
    for (std::size_t count = 0; count < 140; count += count < 70 ? 1 : 23)
      check_same_bits(dtype, target, source, {1 + count % 5, count});
    check_special_pairs(dtype);
  }
}

TEST(reduce_variants_agree_on_long_targets_off_a_register_boundary) {
  constexpr std::size_t kElements = 2600;
  for (const DType dtype : all_dtypes()) {
    const Bytes target = random_bytes(kElements * size_of(dtype), 9);
    const Bytes source = random_bytes(kElements * size_of(dtype), 10);
    for (const std::size_t start : {0, 1, 7, 31, 63})
      check_same_bits(dtype, target, source, {start, kElements - 64 - start % 5});
  }
}

TEST(reduce_touches_nothing_outside_its_range) {
  for (const DType dtype : all_dtypes()) {
    const std::size_t size = size_of(dtype);
    const Bytes target = random_bytes(200 * size, 8);
    for (const cpu::Variant* variant : cpu::usable_variants()) {
      for (const std::size_t count : {0, 1, 15, 65, 131}) {
        const Bytes after =
            reduced(*variant, dtype, ReduceOp::kProduct, target, target, {3, count});
        CHECK(std::memcmp(after.data(), target.data(), 3 * size) == 0);
        const std::size_t end = (3 + count) * size;
        CHECK(std::memcmp(after.data() + end, target.data() + end, target.size() - end) == 0);
      }
    }
  }
}

TEST(reduce_variants_agree_on_pairs_of_16_and_8_bits) {
  Bytes every(2 << 16);
  for (uint32_t code = 0; code < 1u << 16; ++code)
    std::memcpy(&every[2 * static_cast<std::size_t>(code)], &code, 2);
  for (const uint32_t stride : {1u, 3u, 257u, 4099u, 40503u}) {
    Bytes other(every.size());
    for (uint32_t code = 0; code < 1u << 16; ++code) {
      const uint32_t partner = code * stride + stride / 2;
      std::memcpy(&other[2 * static_cast<std::size_t>(code)], &partner, 2);
    }
    check_same_bits(DType::kFloat16, every, other, {0, 1 << 16});
    check_same_bits(DType::kBFloat16, every, other, {0, 1 << 16});
  }
  Bytes rows(1 << 16);
  Bytes columns(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i] = static_cast<std::byte>(i >> 8);
    columns[i] = static_cast<std::byte>(i);
  }
  for (const DType dtype : {DType::kFloat8E4M3, DType::kFloat8E5M2, DType::kFloat8E4M3Fnuz,
                            DType::kFloat8E5M2Fnuz, DType::kInt8, DType::kUInt8, DType::kBool})
    check_same_bits(dtype, rows, columns, {0, rows.size()});
}

// A loop that records NaN and corrects them later must not miss a single one.
TEST(a_lone_nan_becomes_the_one_of_its_dtype_wherever_it_is) {
  constexpr std::size_t kElements = 1200;
  for (const auto& [dtype, code] : {std::pair{DType::kFloat16, uint16_t{0xfd01}},
                                    std::pair{DType::kBFloat16, uint16_t{0xff83}}}) {
    const Bytes ones(kElements * 2, std::byte{0x3c});
    for (const std::size_t count : {5, 64, 100, 1100}) {
      for (std::size_t at = 0; at < count; at += 1 + count / 150) {
        Bytes one_nan = ones;
        std::memcpy(&one_nan[2 * (at + 1)], &code, 2);
        check_same_bits(dtype, ones, one_nan, {1, count});
        check_same_bits(dtype, one_nan, ones, {1, count});
      }
    }
  }
}

TEST(scaling_by_any_nan_gives_the_one_of_the_dtype) {
  constexpr std::size_t kElements = 77;
  for (const uint64_t bits :
       {0x7ff8000000000000ull, 0x7fffffffffffffffull, 0xfff0000040000000ull}) {
    double factor = 0;
    std::memcpy(&factor, &bits, sizeof factor);
    for (const DType dtype : all_dtypes()) {
      if (!has_meaning(dtype, ReduceOp::kPremulSum) || dtype == DType::kBool) continue;
      const Bytes data = random_bytes(kElements * size_of(dtype), 6);
      Bytes expected = data;
      cpu::kBaseVariant.scale(expected.data(), kElements, dtype, factor);
      for (const cpu::Variant* variant : cpu::usable_variants()) {
        Bytes same = data;
        variant->scale(same.data(), kElements, dtype, factor);
        CHECK(same == expected);
      }
      if (dtype != DType::kBFloat16) continue;
      for (std::size_t i = 0; i < expected.size(); i += 2) {
        CHECK(expected[i] == std::byte{0xc0} && expected[i + 1] == std::byte{0x7f});
      }
    }
  }
}

TEST(scale_variants_give_the_bits_of_the_base) {
  for (const DType dtype : all_dtypes()) {
    if (dtype == DType::kBool) continue;
    const std::size_t size = size_of(dtype);
    Bytes data = random_bytes(300 * size, 4);
    const Bytes special = special_bytes(dtype);
    std::copy_n(special.begin(), std::min(special.size(), data.size()), data.begin());
    for (const double factor : {1.0, 0.5, 1.0 / 3, 1.0 / 7, 1.0 / 1000}) {
      for (std::size_t count = 0; count <= 298; count += count < 40 ? 1 : 43) {
        Bytes expected = data;
        cpu::kBaseVariant.scale(expected.data() + size, count, dtype, factor);
        for (const cpu::Variant* variant : cpu::usable_variants()) {
          Bytes same = data;
          variant->scale(same.data() + size, count, dtype, factor);
          CHECK(same == expected);
        }
      }
    }
  }
}

// A variant may compute in float16: adds every number to many others of all magnitudes.
TEST(float16_results_are_those_of_fp32_rounded_once) {
  constexpr std::size_t kAll = 1 << 16;
  Bytes numbers(kAll * sizeof(uint16_t));
  for (std::size_t i = 0; i < kAll; ++i) {
    const auto code = static_cast<uint16_t>(i);
    std::memcpy(numbers.data() + i * sizeof code, &code, sizeof code);
  }
  const cpu::Variant& base = *cpu::usable_variants().front();
  for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kProduct, ReduceOp::kMin, ReduceOp::kMax}) {
    for (std::size_t turn = 0; turn < 11; ++turn) {
      Bytes others = numbers;
      std::rotate(others.begin(), others.begin() + static_cast<std::ptrdiff_t>(2 * 5957 * turn),
                  others.end());
      const Bytes expected =
          reduced(base, DType::kFloat16, op, numbers, others, {.start = 0, .count = kAll});
      for (const cpu::Variant* variant : cpu::usable_variants()) {
        CHECK(reduced(*variant, DType::kFloat16, op, numbers, others,
                      {.start = 0, .count = kAll}) == expected);
      }
    }
  }
}

TEST(simd_is_chosen_by_name_and_only_downwards) {
  const std::vector<const cpu::Variant*> usable = cpu::usable_variants();
  CHECK_EQ(&cpu::choose_variant(nullptr), usable.back());
  CHECK_EQ(&cpu::choose_variant(""), usable.back());
  CHECK_EQ(&cpu::choose_variant("base"), usable.front());
  CHECK_EQ(&cpu::choose_variant("avx512fp16"), usable.back());
  for (const cpu::Variant* variant : usable) CHECK_EQ(&cpu::choose_variant(variant->name), variant);
  CHECK_THROWS(
      cpu::choose_variant("sse9"), InvalidArgumentError,
      "FASTGPU_SIMD is 'sse9', which is not allowed; set it to: avx512fp16, avx512, avx2, base");
  CHECK_EQ(std::string(simd_level()), cpu::active_variant().name);
}

}  // namespace fastgpu
