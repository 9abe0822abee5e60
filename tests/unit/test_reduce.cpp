// The result of each operation for each dtype.
#include <cmath>
#include <complex>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "kernels/cpu/variant.h"
#include "kernels/reduce.h"
#include "kernels/short_float.h"
#include "unit/reduce_cases.h"

namespace fastgpu {
namespace {

using test::all_dtypes;
using test::all_reduce_ops;
using test::has_meaning;

template <typename Number>
std::vector<Number> apply(DType dtype, ReduceOp reduce_op, std::vector<Number> target,
                          const std::vector<Number>& source) {
  const ReduceKernel kernel = find_reduce(dtype, reduce_op);
  CHECK(kernel != nullptr);
  kernel(reinterpret_cast<std::byte*>(target.data()),
         reinterpret_cast<const std::byte*>(source.data()), target.size());
  return target;
}

template <typename Number>
std::vector<Number> scaled(DType dtype, std::vector<Number> data, double factor) {
  scale(reinterpret_cast<std::byte*>(data.data()), data.size(), dtype, factor);
  return data;
}

using Doubles = std::vector<double>;
using Floats = std::vector<float>;
using Codes = std::vector<uint8_t>;
using Halves = std::vector<uint16_t>;

Halves random_halves(std::size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  Halves codes(count);
  for (uint16_t& code : codes) code = static_cast<uint16_t>(random());
  return codes;
}

// Checks sums against the definition of the dtype: load both, add in fp32, store.
template <typename Format>
void check_sum_by_definition(DType dtype, const std::vector<typename Format::Storage>& a,
                             const std::vector<typename Format::Storage>& b) {
  const auto sums = apply(dtype, ReduceOp::kSum, a, b);
  for (std::size_t i = 0; i < a.size(); ++i)
    CHECK_EQ(sums[i], narrow<Format>(widen<Format>(a[i]) + widen<Format>(b[i])));
}

template <typename Number>
void check_division(DType dtype, const std::vector<Number>& numbers) {
  for (const uint64_t divisor : {1, 2, 3, 5, 7, 8, 33, 100, 127, 1000, 4096, 65535}) {
    const auto quotients = scaled(dtype, numbers, 1.0 / static_cast<double>(divisor));
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      Number expected{};
      if constexpr (std::is_signed_v<Number>)
        expected = static_cast<Number>(numbers[i] / static_cast<int64_t>(divisor));
      else
        expected = static_cast<Number>(numbers[i] / divisor);
      CHECK_EQ(quotients[i], expected);
    }
  }
}

template <typename Number>
void check_divisions(DType dtype, uint64_t seed) {
  using Limits = std::numeric_limits<Number>;
  std::mt19937_64 random(seed);
  std::vector<Number> numbers{0, 1, Limits::min(), Limits::max()};
  numbers.push_back(static_cast<Number>(Limits::max() - 1));
  numbers.push_back(static_cast<Number>(Limits::min() + 1));
  for (int i = 0; i < 2000; ++i) numbers.push_back(static_cast<Number>(random()));
  // Multiples of the divisors and their neighbours, where a wrongly rounded quotient would show.
  for (const int divisor : {3, 7, 33, 127, 1000, 65535}) {
    const auto largest = static_cast<Number>(Limits::max() - Limits::max() % divisor);
    numbers.push_back(largest);
    numbers.push_back(static_cast<Number>(largest - 1));
  }
  check_division(dtype, numbers);
}

template <typename Number>
void check_integer_meaning(DType dtype) {
  using Limits = std::numeric_limits<Number>;
  const std::vector<Number> a{1, Limits::max(), Limits::min(), 12, Limits::max()};
  const std::vector<Number> b{2, 1, 3, 10, Limits::max()};
  using Result = std::vector<Number>;
  const auto sum = apply(dtype, ReduceOp::kSum, a, b);
  CHECK_EQ(sum[0], Number{3});
  CHECK_EQ(sum[1], Limits::min());  // wraps
  CHECK_EQ(sum, apply(dtype, ReduceOp::kAvg, a, b));
  const auto product = apply(dtype, ReduceOp::kProduct, a, b);
  CHECK_EQ(product[3], Number{120});
  CHECK_EQ(product[4], Number{1});  // (2^k - 1)^2 is 1 in k bits
  CHECK((apply(dtype, ReduceOp::kMin, a, b) == Result{1, 1, Limits::min(), 10, Limits::max()}));
  CHECK((apply(dtype, ReduceOp::kMax, a, b) == Result{2, Limits::max(), 3, 12, Limits::max()}));
  CHECK((apply(dtype, ReduceOp::kBand, Result{12, 7}, Result{10, 8}) == Result{8, 0}));
  CHECK((apply(dtype, ReduceOp::kBor, Result{12, 7}, Result{10, 8}) == Result{14, 15}));
  CHECK((apply(dtype, ReduceOp::kBxor, Result{12, 7}, Result{10, 7}) == Result{6, 0}));
}

// Calls body(type, dtype) for every integer dtype.
template <typename Body>
void for_each_integer(const Body& body) {
  body(int8_t{}, DType::kInt8);
  body(uint8_t{}, DType::kUInt8);
  body(int16_t{}, DType::kInt16);
  body(uint16_t{}, DType::kUInt16);
  body(int32_t{}, DType::kInt32);
  body(uint32_t{}, DType::kUInt32);
  body(int64_t{}, DType::kInt64);
  body(uint64_t{}, DType::kUInt64);
}

}  // namespace

TEST(reduce_has_a_kernel_wherever_the_operation_has_a_meaning) {
  for (const DType dtype : all_dtypes()) {
    for (const ReduceOp op : all_reduce_ops()) {
      CHECK_EQ(find_reduce(dtype, op) != nullptr, has_meaning(dtype, op));
      CHECK_EQ(why_not(dtype, op).empty(), has_meaning(dtype, op));
      for (const cpu::Variant* variant : cpu::usable_variants())
        CHECK_EQ(variant->find_reduce(dtype, op) != nullptr, has_meaning(dtype, op));
    }
  }
}

TEST(reduce_says_why_not_in_words) {
  CHECK(why_not(DType::kBool, ReduceOp::kAvg).find("AVG is not defined for bool") == 0);
  CHECK(why_not(DType::kInt32, ReduceOp::kPremulSum).find("int32, which cannot hold a fraction") !=
        std::string::npos);
  CHECK(why_not(DType::kComplex64, ReduceOp::kMin).find("no order") != std::string::npos);
  CHECK(why_not(DType::kBFloat16, ReduceOp::kBxor).find("BXOR is not defined for bfloat16") == 0);
  CHECK(why_not(DType::kComplex128, ReduceOp::kBand).find("integers and bool") !=
        std::string::npos);
}

TEST(reduce_of_floats) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(
      (apply(DType::kFloat32, ReduceOp::kSum, Floats{1, 2.5f}, Floats{2, -1}) == Floats{3, 1.5f}));
  CHECK((apply(DType::kFloat64, ReduceOp::kProduct, Doubles{3, -2}, Doubles{0.5, 4}) ==
         Doubles{1.5, -8}));
  for (const ReduceOp op : {ReduceOp::kAvg, ReduceOp::kPremulSum})
    CHECK((apply(DType::kFloat32, op, Floats{1}, Floats{4}) == Floats{5}));
  for (const ReduceOp op : {ReduceOp::kMin, ReduceOp::kMax}) {
    const float extreme = op == ReduceOp::kMin ? 1.0f : 2.0f;
    const Floats results =
        apply(DType::kFloat32, op, Floats{1, 2, nan, 1, nan}, Floats{2, 1, 1, nan, nan});
    CHECK_EQ(results[0], extreme);
    CHECK_EQ(results[1], extreme);
    for (std::size_t i = 2; i < results.size(); ++i) CHECK(std::isnan(results[i]));
  }
}

TEST(reduce_stores_one_nan_whatever_the_machine_computes) {
  const float infinity = std::numeric_limits<float>::infinity();
  const Floats odd_nans{float_of(0xffc00001), float_of(0x7f800001), infinity};
  const Floats others{1.0f, float_of(0xffffffff), -infinity};
  for (const float sum : apply(DType::kFloat32, ReduceOp::kSum, odd_nans, others))
    CHECK_EQ(bits_of(sum), 0x7fc00000u);
  const double infinite = std::numeric_limits<double>::infinity();
  for (const double sum :
       apply(DType::kFloat64, ReduceOp::kSum, Doubles(9, infinite), Doubles(9, -infinite))) {
    uint64_t bits = 0;
    std::memcpy(&bits, &sum, sizeof(bits));
    CHECK_EQ(bits, 0x7ff8000000000000ull);
  }
  CHECK((apply(DType::kFloat16, ReduceOp::kSum, Halves(20, 0x7c00), Halves(20, 0xfc00)) ==
         Halves(20, 0x7e00)));
}

TEST(reduce_of_short_floats_rounds_once) {
  const Halves a = random_halves(20000, 11);
  const Halves b = random_halves(a.size(), 12);
  check_sum_by_definition<Float16>(DType::kFloat16, a, b);
  check_sum_by_definition<BFloat16>(DType::kBFloat16, a, b);
  Codes rows(1 << 16);
  Codes columns(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i] = static_cast<uint8_t>(i >> 8);
    columns[i] = static_cast<uint8_t>(i);
  }
  check_sum_by_definition<Float8E4M3>(DType::kFloat8E4M3, rows, columns);
  check_sum_by_definition<Float8E5M2>(DType::kFloat8E5M2, rows, columns);
  check_sum_by_definition<Float8E4M3Fnuz>(DType::kFloat8E4M3Fnuz, rows, columns);
  check_sum_by_definition<Float8E5M2Fnuz>(DType::kFloat8E5M2Fnuz, rows, columns);
}

TEST(reduce_of_integers) {
  for_each_integer([](auto zero, DType dtype) { check_integer_meaning<decltype(zero)>(dtype); });
  CHECK((apply(DType::kInt8, ReduceOp::kMin, std::vector<int8_t>{-5, 3},
               std::vector<int8_t>{4, -128}) == std::vector<int8_t>{-5, -128}));
  CHECK((apply(DType::kUInt8, ReduceOp::kMax, Codes{251, 3}, Codes{4, 128}) == Codes{251, 128}));
}

TEST(reduce_of_bool_stores_zero_or_one) {
  const Codes a{0, 0, 1, 1, 7, 0, 255, 2};
  const Codes b{0, 1, 0, 1, 0, 8, 16, 1};
  for (const ReduceOp any : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kBor})
    CHECK((apply(DType::kBool, any, a, b) == Codes{0, 1, 1, 1, 1, 1, 1, 1}));
  for (const ReduceOp both : {ReduceOp::kProduct, ReduceOp::kMin, ReduceOp::kBand})
    CHECK((apply(DType::kBool, both, a, b) == Codes{0, 0, 0, 1, 0, 0, 1, 1}));
  CHECK((apply(DType::kBool, ReduceOp::kBxor, a, b) == Codes{0, 1, 1, 0, 1, 1, 0, 0}));
}

TEST(reduce_of_complex_numbers) {
  using Complex = std::complex<double>;
  const std::vector<Complex> a(5, {1, 2});
  const std::vector<Complex> b(5, {3, -4});
  CHECK((apply(DType::kComplex128, ReduceOp::kSum, a, b) == std::vector<Complex>(5, {4, -2})));
  CHECK((apply(DType::kComplex128, ReduceOp::kProduct, a, b) == std::vector<Complex>(5, {11, 2})));
  CHECK((scaled(DType::kComplex128, a, 0.5) == std::vector<Complex>(5, {0.5, 1})));
  using Short = std::complex<float>;
  CHECK((apply(DType::kComplex64, ReduceOp::kProduct, std::vector<Short>(9, {0, 1}),
               std::vector<Short>(9, {0, 1})) == std::vector<Short>(9, {-1, 0})));
}

TEST(scale_of_floats) {
  CHECK((scaled(DType::kFloat32, Floats{3, -1}, 0.5) == Floats{1.5f, -0.5f}));
  CHECK((scaled(DType::kFloat64, Doubles{1}, 1.0 / 3) == Doubles{1.0 / 3}));
  CHECK((scaled(DType::kFloat16, Halves(19, 0x3c00), 0.5) == Halves(19, 0x3800)));
  CHECK((scaled(DType::kBFloat16, Halves{0xbf80}, 0.5) == Halves{0xbf00}));
  CHECK((scaled(DType::kFloat8E4M3, Codes{0x38}, 0.5) == Codes{0x30}));
  CHECK((scaled(DType::kFloat8E5M2, Codes{0x3c}, 2) == Codes{0x40}));
  CHECK((scaled(DType::kFloat8E4M3Fnuz, Codes{0x40}, 0.5) == Codes{0x38}));
  CHECK((scaled(DType::kFloat8E5M2Fnuz, Codes{0x40}, 2) == Codes{0x44}));
  CHECK(scaled(DType::kFloat32, Floats{}, 0.5).empty());
}

TEST(scale_divides_integers_towards_zero) {
  for_each_integer([](auto zero, DType dtype) { check_divisions<decltype(zero)>(dtype, 3); });
  CHECK((scaled(DType::kInt32, std::vector<int32_t>{-7, 7}, 0.5) == std::vector<int32_t>{-3, 3}));
}

}  // namespace fastgpu
