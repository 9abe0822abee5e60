// One element of a reduction: how a dtype is loaded and stored, and what an operation does to two
// values. CPU loops and GPU kernels are built from these, so their bits agree. A NaN that is stored
// is always the one quiet NaN of its dtype: which NaN an addition gives depends on the machine, and
// on the order the compiler puts the operands in.
// Integers wrap around. Bool is any byte, stored as 0 or 1.
// Compile with -ffp-contract=off (nvcc: --fmad=false): a fused multiply-add rounds once, not twice.
// Thread safety: pure functions.
#pragma once

#include <type_traits>

#include "kernels/short_float.h"

namespace fastgpu {
inline namespace FASTGPU_ISA {

// An Element has Storage (what memory holds), Value (what is computed with), load and store.
template <typename Number>
struct Real {
  using Storage = Number;
  using Value = Number;
  FASTGPU_HD static Value load(Storage storage) { return storage; }
  FASTGPU_HD static Storage store(Value value) {
    return value != value ? static_cast<Number>(float_of(kFloatInfinity | kFloatQuiet)) : value;
  }
};

template <typename Format>
struct Short {
  using Storage = typename Format::Storage;
  using Value = float;
  FASTGPU_HD static Value load(Storage storage) { return widen<Format>(storage); }
  FASTGPU_HD static Storage store(Value value) { return narrow<Format>(value); }
};

template <typename Number>
struct Integer {
  using Storage = Number;
  using Value = Number;
  FASTGPU_HD static Value load(Storage storage) { return storage; }
  FASTGPU_HD static Storage store(Value value) { return value; }
};

struct Bool {
  using Storage = uint8_t;
  using Value = uint8_t;
  FASTGPU_HD static Value load(Storage storage) { return storage != 0 ? 1 : 0; }
  FASTGPU_HD static Storage store(Value value) { return value; }
};

template <typename Number>
struct ComplexValue {
  Number real;
  Number imaginary;
};

template <typename Number>
struct Complex {
  using Storage = ComplexValue<Number>;
  using Value = ComplexValue<Number>;
  FASTGPU_HD static Value load(Storage storage) { return storage; }
  FASTGPU_HD static Storage store(Value value) {
    return {Real<Number>::store(value.real), Real<Number>::store(value.imaginary)};
  }
};

// The type in which an integer wraps without overflow: small ones would be promoted to int, where
// 65535 * 65535 has no meaning.
template <typename Number>
using Wrapping = std::conditional_t<sizeof(Number) <= 4, uint32_t, uint64_t>;

// An operation works on numbers and, floating-point ones, also on compiler vectors of them.
struct Sum {
  template <typename Value>
  FASTGPU_HD static Value apply(Value a, Value b) {
    if constexpr (std::is_integral_v<Value>) {
      using W = Wrapping<Value>;
      return static_cast<Value>(static_cast<W>(a) + static_cast<W>(b));
    } else {
      return a + b;
    }
  }
};

// -value, in a way that hides it from the compiler: gcc 12 makes a product minus a product into a
// fused multiply-add even where -ffp-contract=off forbids it.
FASTGPU_HD constexpr float negated(float value) {
  return float_of(bits_of(value) ^ (kFloatMagnitude + 1));
}
FASTGPU_HD constexpr double negated(double value) {
  return __builtin_bit_cast(double, __builtin_bit_cast(uint64_t, value) ^ (uint64_t{1} << 63));
}

struct Product {
  template <typename Value>
  FASTGPU_HD static Value apply(Value a, Value b) {
    if constexpr (std::is_integral_v<Value>) {
      using W = Wrapping<Value>;
      return static_cast<Value>(static_cast<W>(a) * static_cast<W>(b));
    } else {
      return a * b;
    }
  }
  template <typename Number>
  FASTGPU_HD static ComplexValue<Number> apply(ComplexValue<Number> a, ComplexValue<Number> b) {
    return {a.real * b.real + negated(a.imaginary * b.imaginary),
            a.real * b.imaginary + a.imaginary * b.real};
  }
};

// A NaN on either side is the result; equal values (zeros of either sign) leave the first.
struct Min {
  template <typename Value>
  FASTGPU_HD static Value apply(Value a, Value b) {
    return ((b < a) | (b != b)) ? b : a;
  }
};

struct Max {
  template <typename Value>
  FASTGPU_HD static Value apply(Value a, Value b) {
    return ((b > a) | (b != b)) ? b : a;
  }
};

struct BitAnd {
  template <typename Value>
  FASTGPU_HD static Value apply(Value a, Value b) {
    return static_cast<Value>(a & b);
  }
};

struct BitOr {
  template <typename Value>
  FASTGPU_HD static Value apply(Value a, Value b) {
    return static_cast<Value>(a | b);
  }
};

struct BitXor {
  template <typename Value>
  FASTGPU_HD static Value apply(Value a, Value b) {
    return static_cast<Value>(a ^ b);
  }
};

// value / divisor towards zero. A float quotient is exact enough where it has 8 bits more than the
// integer: it cannot round up to a whole number, which is at least 1 / divisor away.
template <typename Number>
FASTGPU_HD Number divide(Number value, uint64_t divisor) {
  if constexpr (sizeof(Number) <= 2) {
    return static_cast<Number>(static_cast<float>(value) / static_cast<float>(divisor));
  } else if constexpr (sizeof(Number) == 4) {
    return static_cast<Number>(static_cast<double>(value) / static_cast<double>(divisor));
  } else if constexpr (std::is_signed_v<Number>) {
    const uint64_t magnitude =
        value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
    const uint64_t quotient = magnitude / divisor;
    return static_cast<Number>(value < 0 ? 0 - quotient : quotient);
  } else {
    return value / divisor;
  }
}

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
