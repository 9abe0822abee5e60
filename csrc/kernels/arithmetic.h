// The arithmetic of one element: how a dtype is loaded and stored, and the result of an operation
// on two values. CPU loops and GPU kernels are built from this file, so that their bits agree.
//
// A stored NaN is always the canonical quiet NaN of its dtype, because the NaN that an addition
// returns depends on the machine and on the order of its operands. Integers wrap around. A bool is
// any byte, stored as 0 or 1.
//
// Compile with -ffp-contract=off (nvcc: --fmad=false), because a fused multiply-add rounds once
// where a product and a sum round twice. Threading: pure functions.
#pragma once

#include <type_traits>

#include "kernels/short_float.h"

namespace fastgpu {
inline namespace FASTGPU_ISA {

// An element type has Storage (the type in memory), Value (the type of computation), load() and
// store().
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

// The unsigned type in which an integer is computed. Without it, a small integer would be promoted
// to int, where 65535 * 65535 overflows.
template <typename Number>
using Wrapping = std::conditional_t<sizeof(Number) <= 4, uint32_t, uint64_t>;

// Each operation accepts two numbers, or two compiler vectors of floating-point numbers.
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

// Returns -value in a way that the compiler does not see. Otherwise gcc 12 turns a product minus a
// product into a fused multiply-add, although -ffp-contract=off forbids it.
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

// If either value is NaN, so is the result. If the values are equal (0 and -0), the result
// is the first.
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

// Returns value / divisor, rounded towards zero. The quotient is computed in a float type with at
// least 8 bits more than the integer. It cannot round up to the next whole number, which is at
// least 1 / divisor away.
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
