// Compares the conversions of short floats with tables derived from their definition, and every
// SIMD variant with the conversion of one element.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "kernels/convert.h"
#include "kernels/cpu/variant.h"
#include "kernels/short_float.h"

namespace fastgpu {
namespace {

enum class Kind : uint8_t {
  kInfinite,  // codes with the largest exponent are infinity and NaN
  kFinite,    // the code with all bits set is NaN
  kFnuz,      // the code of -0 is NaN
};

struct Definition {
  int exponent_bits;
  int mantissa_bits;
  Kind kind;
  uint32_t nan;
  uint32_t overflow;

  uint32_t codes() const { return 1u << (exponent_bits + mantissa_bits); }  // of one sign
  bool infinite() const { return kind == Kind::kInfinite; }
  bool is_nan(uint32_t code) const {
    return kind == Kind::kFnuz ? code == codes() : code % codes() > last_number();
  }
  uint32_t last_number() const {  // infinity or the largest finite number
    if (kind == Kind::kFnuz) return codes() - 1;
    return infinite() ? ((1u << exponent_bits) - 1) << mantissa_bits : codes() - 2;
  }
  double value(uint32_t code) const {
    const int bias = (1 << (exponent_bits - 1)) - (kind == Kind::kFnuz ? 0 : 1);
    const int exponent = static_cast<int>(code >> mantissa_bits);
    const int mantissa = static_cast<int>(code & ((1u << mantissa_bits) - 1));
    if (infinite() && code == last_number()) return std::numeric_limits<double>::infinity();
    if (exponent == 0) return std::ldexp(mantissa, 1 - bias - mantissa_bits);
    return std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
  }
  // The number after the largest finite one, if the exponent had no limit.
  double beyond() const {
    const uint32_t largest = infinite() ? last_number() - 1 : last_number();
    return 2 * value(largest) - value(largest - 1);
  }
};

constexpr Definition kFloat16{5, 10, Kind::kInfinite, 0x7e00, 0x7c00};
constexpr Definition kBFloat16{8, 7, Kind::kInfinite, 0x7fc0, 0x7f80};
constexpr Definition kE4M3{4, 3, Kind::kFinite, 0x7f, 0x7e};
constexpr Definition kE5M2{5, 2, Kind::kInfinite, 0x7f, 0x7c};
constexpr Definition kE4M3Fnuz{4, 3, Kind::kFnuz, 0x80, 0x80};
constexpr Definition kE5M2Fnuz{5, 2, Kind::kFnuz, 0x80, 0x80};

// Rounds to nearest by search: finds the two neighbours in the table; ties go to the even code.
uint32_t nearest(const Definition& format, float number) {
  if (std::isnan(number)) return format.nan;
  const uint32_t sign = std::signbit(number) ? format.codes() : 0;
  const double magnitude = std::fabs(static_cast<double>(number));
  const uint32_t largest = format.infinite() ? format.last_number() - 1 : format.last_number();
  const uint32_t overflow = sign | format.overflow;  // the NaN of fnuz already has the sign bit
  if (std::isinf(magnitude)) return overflow;
  uint32_t low = 0;
  uint32_t high = largest + 1;
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    (format.value(middle) <= magnitude ? low : high) = middle;
  }
  const double above = low == largest ? format.beyond() : format.value(low + 1);
  const double down = magnitude - format.value(low);
  const double up = above - magnitude;
  const uint32_t code = down < up || (down == up && low % 2 == 0) ? low : low + 1;
  if (code == 0 && format.kind == Kind::kFnuz) return 0;
  return code > largest ? overflow : sign | code;
}

template <typename Format>
void check_widen(const Definition& format) {
  for (uint32_t code = 0; code < 2 * format.codes(); ++code) {
    const uint32_t magnitude = code % format.codes();
    const float widened = widen<Format>(static_cast<typename Format::Storage>(code));
    if (format.is_nan(code)) {
      CHECK(std::isnan(widened));
      const bool as_it_stands = std::is_same_v<Format, BFloat16>;
      CHECK(as_it_stands || (bits_of(widened) & kFloatQuiet) != 0);
    } else {
      const double expected = format.value(magnitude);
      CHECK_EQ(static_cast<double>(widened), code == magnitude ? expected : -expected);
      CHECK_EQ(std::signbit(widened), code != magnitude);
    }
  }
}

// The values near which rounding changes: every number, every midpoint, and their neighbours.
std::vector<float> turning_points(const Definition& format) {
  std::vector<float> points;
  const float infinity = std::numeric_limits<float>::infinity();
  for (uint32_t code = 0; code < format.last_number(); ++code) {
    const double here = format.value(code);
    const double after =
        std::isinf(format.value(code + 1)) ? format.beyond() : format.value(code + 1);
    for (const double point : {here, (here + after) / 2, after}) {
      const auto exact = static_cast<float>(point);
      for (const float near :
           {exact, std::nextafter(exact, 0.0f), std::nextafter(exact, infinity)}) {
        points.push_back(near);
        points.push_back(-near);
      }
    }
  }
  for (const double past : {1.25, 1.5, 2.0, 4.0, 1e6}) {
    points.push_back(static_cast<float>(format.beyond() * past));
    points.push_back(static_cast<float>(-format.beyond() * past));
  }
  return points;
}

std::vector<float> special_floats() {
  using Limits = std::numeric_limits<float>;
  std::vector<float> special{
      0.0f, Limits::infinity(), Limits::max(), Limits::min(), Limits::denorm_min(),
      1.0f, Limits::quiet_NaN()};
  special.push_back(float_of(0x7f800001));  // a signalling NaN
  special.push_back(float_of(0x7fffffff));
  const std::size_t positive = special.size();
  for (std::size_t i = 0; i < positive; ++i)
    special.push_back(float_of(bits_of(special[i]) | 0x80000000));
  return special;
}

std::vector<float> random_floats(std::size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> numbers(count);
  for (float& number : numbers) number = float_of(static_cast<uint32_t>(random()));
  return numbers;
}

template <typename Format>
void check_narrow(const Definition& format) {
  std::vector<float> numbers = turning_points(format);
  for (const std::vector<float>& more : {special_floats(), random_floats(100000, 7)})
    numbers.insert(numbers.end(), more.begin(), more.end());
  for (const float number : numbers) {
    const uint32_t narrowed = narrow<Format>(number);
    const uint32_t expected = nearest(format, number);
    if (narrowed != expected)
      test::fail(__FILE__, __LINE__,
                 "narrow(" + test::show(number) + ") is " + test::show(narrowed) + ", not " +
                     test::show(expected));
  }
}

// Every count up to a few vectors, from a start that is aligned to an element only. The bytes
// behind the end must not change.
template <typename Format>
void check_variants(DType dtype) {
  using Storage = typename Format::Storage;
  std::vector<float> floats = random_floats(4096, 8);
  const std::vector<float> special = special_floats();
  std::copy(special.begin(), special.end(), floats.begin() + 5);
  std::vector<Storage> codes(floats.size());
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<Storage>(i * 31 + i / 256);
  for (const cpu::Variant* variant : cpu::usable_variants()) {
    for (std::size_t count = 0; count < 150; ++count) {
      const std::size_t start = count % 7 + count;
      std::vector<Storage> narrowed(count + 2, Storage{0x55});
      variant->narrow(floats.data() + start, reinterpret_cast<std::byte*>(&narrowed[1]), dtype,
                      count);
      std::vector<float> widened(count + 2, 0.5f);
      variant->widen(reinterpret_cast<const std::byte*>(codes.data() + start), dtype, &widened[1],
                     count);
      for (std::size_t i = 0; i < count; ++i) {
        CHECK_EQ(narrowed[i + 1], narrow<Format>(floats[start + i]));
        CHECK_EQ(bits_of(widened[i + 1]), bits_of(widen<Format>(codes[start + i])));
      }
      CHECK_EQ(narrowed.front(), Storage{0x55});
      CHECK_EQ(narrowed.back(), Storage{0x55});
      CHECK_EQ(widened.front(), 0.5f);
      CHECK_EQ(widened.back(), 0.5f);
    }
  }
}

template <typename Format>
void check_variants_everywhere(DType dtype, const Definition& format) {
  std::vector<float> floats = turning_points(format);
  const std::vector<float> more = random_floats(100000, 7);
  floats.insert(floats.end(), more.begin(), more.end());
  std::vector<typename Format::Storage> narrowed(floats.size());
  for (const cpu::Variant* variant : cpu::usable_variants()) {
    variant->narrow(floats.data(), reinterpret_cast<std::byte*>(narrowed.data()), dtype,
                    floats.size());
    for (std::size_t i = 0; i < floats.size(); ++i)
      CHECK_EQ(narrowed[i], narrow<Format>(floats[i]));
  }
}

}  // namespace

TEST(widen_gives_the_value_that_the_definition_gives) {
  check_widen<Float16>(kFloat16);
  check_widen<BFloat16>(kBFloat16);
  check_widen<Float8E4M3>(kE4M3);
  check_widen<Float8E5M2>(kE5M2);
  check_widen<Float8E4M3Fnuz>(kE4M3Fnuz);
  check_widen<Float8E5M2Fnuz>(kE5M2Fnuz);
}

TEST(narrow_rounds_to_nearest_even) {
  check_narrow<Float16>(kFloat16);
  check_narrow<BFloat16>(kBFloat16);
  check_narrow<Float8E4M3>(kE4M3);
  check_narrow<Float8E5M2>(kE5M2);
  check_narrow<Float8E4M3Fnuz>(kE4M3Fnuz);
  check_narrow<Float8E5M2Fnuz>(kE5M2Fnuz);
}

TEST(narrow_at_the_edges) {
  CHECK_EQ(narrow<Float16>(65519.0f), 0x7bff);
  CHECK_EQ(narrow<Float16>(65520.0f), 0x7c00);
  CHECK_EQ(narrow<Float16>(-65520.0f), 0xfc00);
  CHECK_EQ(narrow<Float8E4M3>(464.0f), 0x7e);
  CHECK_EQ(narrow<Float8E4M3>(464.1f), 0x7e);
  CHECK_EQ(narrow<Float8E4M3>(-std::numeric_limits<float>::infinity()), 0xfe);
  CHECK_EQ(narrow<Float8E4M3>(-std::numeric_limits<float>::quiet_NaN()), 0x7f);
  CHECK_EQ(narrow<Float8E4M3Fnuz>(-247.9f), 0xff);
  CHECK_EQ(narrow<Float8E4M3Fnuz>(-248.0f), 0x80);
  CHECK_EQ(narrow<Float8E4M3Fnuz>(-0.0f), 0x00);
  CHECK_EQ(narrow<Float8E5M2Fnuz>(61439.0f), 0x7f);
  CHECK_EQ(narrow<Float8E5M2Fnuz>(61440.0f), 0x80);
  CHECK_EQ(narrow<Float8E5M2>(61439.0f), 0x7b);
  CHECK_EQ(narrow<Float8E5M2>(61440.0f), 0x7c);
  CHECK_EQ(narrow<BFloat16>(std::numeric_limits<float>::max()), 0x7f80);
  CHECK_EQ(narrow<Float16>(-0.0f), 0x8000);
}

TEST(array_conversions_equal_the_single_ones) {
  check_variants<Float16>(DType::kFloat16);
  check_variants<BFloat16>(DType::kBFloat16);
  check_variants<Float8E4M3>(DType::kFloat8E4M3);
  check_variants<Float8E5M2>(DType::kFloat8E5M2);
  check_variants<Float8E4M3Fnuz>(DType::kFloat8E4M3Fnuz);
  check_variants<Float8E5M2Fnuz>(DType::kFloat8E5M2Fnuz);
}

TEST(array_conversions_round_as_the_single_ones) {
  check_variants_everywhere<Float16>(DType::kFloat16, kFloat16);
  check_variants_everywhere<BFloat16>(DType::kBFloat16, kBFloat16);
  check_variants_everywhere<Float8E4M3>(DType::kFloat8E4M3, kE4M3);
  check_variants_everywhere<Float8E5M2>(DType::kFloat8E5M2, kE5M2);
  check_variants_everywhere<Float8E4M3Fnuz>(DType::kFloat8E4M3Fnuz, kE4M3Fnuz);
  check_variants_everywhere<Float8E5M2Fnuz>(DType::kFloat8E5M2Fnuz, kE5M2Fnuz);
}

TEST(conversions_take_short_floats_only) {
  const std::vector<float> numbers{1.0f, -2.0f};
  std::vector<uint16_t> halves(2);
  auto* bytes = reinterpret_cast<std::byte*>(halves.data());
  narrow(numbers.data(), bytes, DType::kFloat16, 2);
  CHECK((halves == std::vector<uint16_t>{0x3c00, 0xc000}));
  std::vector<float> back(2);
  widen(bytes, DType::kFloat16, back.data(), 2);
  CHECK(back == numbers);
  CHECK_THROWS(widen(bytes, DType::kInt8, back.data(), 2), InvalidArgumentError, "int8 is not");
  CHECK_THROWS(narrow(numbers.data(), bytes, DType::kFloat32, 2), InvalidArgumentError,
               "allowed are float16, bfloat16");
}

}  // namespace fastgpu
