// Measures the reduction kernels: GB of target per second, by dtype, operation and instruction set,
// and memcpy of the same size for comparison.
//
//   fastgpu_bench_kernels [SIZE_KIB]
//
// With the default, 256 KiB, source and target fit in the L2 cache, like the chunks of a pipelined
// collective.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "kernels/cpu/variant.h"

namespace fastgpu {
namespace {

// The best of many short trials, so that an interrupted trial does not count.
double gigabytes_a_second(std::size_t size_bytes, const std::function<void()>& body) {
  using Clock = std::chrono::steady_clock;
  constexpr int kTrials = 60;
  constexpr auto kLimit = std::chrono::milliseconds(60);
  constexpr auto kTrial = std::chrono::microseconds(300);
  body();
  double best = 0;
  const auto first = Clock::now();
  for (int trial = 0; trial < kTrials && (trial < 2 || Clock::now() - first < kLimit); ++trial) {
    const auto start = Clock::now();
    std::size_t runs = 0;
    std::chrono::duration<double> spent{};
    do {
      body();
      ++runs;
      spent = Clock::now() - start;
    } while (spent < kTrial);
    best = std::max(best, static_cast<double>(runs * size_bytes) / spent.count() / 1e9);
  }
  return best;
}

// Arrays start at a cache line, like the tensors and chunks of collectives.
struct alignas(64) Line {
  std::byte bytes[64];
};

class Array {
 public:
  explicit Array(std::size_t size_bytes)
      : lines_((size_bytes + sizeof(Line) - 1) / sizeof(Line)), size_bytes_(size_bytes) {}
  std::byte* data() { return lines_.front().bytes; }
  std::size_t size() const { return size_bytes_; }
  std::byte& operator[](std::size_t i) { return data()[i]; }

 private:
  std::vector<Line> lines_;
  std::size_t size_bytes_;
};

struct Arrays {
  explicit Arrays(std::size_t size_bytes) : target(size_bytes), source(size_bytes) { refill(); }
  // Small numbers in every dtype, whose sums and products do not become subnormal.
  void refill() {
    for (std::size_t i = 0; i < target.size(); ++i) {
      target[i] = std::byte{static_cast<uint8_t>(0x38 + i % 4)};
      source[i] = std::byte{static_cast<uint8_t>(0x39 + i % 3)};
    }
  }
  Array target;
  Array source;
};

using Measure = std::function<double(const cpu::Variant&)>;  // 0 where the kernel does not exist

void print_row(const std::string& dtype, const std::string& operation, const Measure& measure) {
  std::vector<double> speeds;
  for (const cpu::Variant* variant : cpu::usable_variants()) speeds.push_back(measure(*variant));
  if (*std::max_element(speeds.begin(), speeds.end()) == 0) return;
  std::printf("%-14s %-10s", dtype.c_str(), operation.c_str());
  for (const double speed : speeds) std::printf(" %8.1f", speed);
  std::printf("\n");
  std::fflush(stdout);
}

void measure_dtype(Arrays& arrays, DType dtype) {
  const std::size_t size_bytes = arrays.target.size();
  const std::size_t count = size_bytes / size_of(dtype);
  for (const ReduceOp reduce_op : {ReduceOp::kSum, ReduceOp::kProduct, ReduceOp::kMin,
                                   ReduceOp::kMax, ReduceOp::kBand, ReduceOp::kBxor}) {
    arrays.refill();
    print_row(std::string(name_of(dtype)), std::string(name_of(reduce_op)),
              [&](const cpu::Variant& variant) {
                const ReduceKernel kernel = variant.find_reduce(dtype, reduce_op);
                if (kernel == nullptr) return 0.0;
                return gigabytes_a_second(
                    size_bytes, [&] { kernel(arrays.target.data(), arrays.source.data(), count); });
              });
  }
  if (dtype == DType::kBool) return;
  print_row(std::string(name_of(dtype)), "scale", [&](const cpu::Variant& variant) {
    arrays.refill();
    return gigabytes_a_second(size_bytes,
                              [&] { variant.scale(arrays.target.data(), count, dtype, 1.0); });
  });
}

// In GB of the short format per second.
void measure_conversions(Arrays& arrays, DType dtype) {
  const std::size_t count = arrays.target.size() / sizeof(float);
  const std::size_t size_bytes = count * size_of(dtype);
  auto* floats = reinterpret_cast<float*>(arrays.target.data());
  arrays.refill();
  print_row(std::string(name_of(dtype)), "widen", [&](const cpu::Variant& variant) {
    return gigabytes_a_second(size_bytes,
                              [&] { variant.widen(arrays.source.data(), dtype, floats, count); });
  });
  print_row(std::string(name_of(dtype)), "narrow", [&](const cpu::Variant& variant) {
    return gigabytes_a_second(size_bytes,
                              [&] { variant.narrow(floats, arrays.source.data(), dtype, count); });
  });
}

void measure_all(std::size_t size_bytes) {
  Arrays arrays(size_bytes);
  const double copy = gigabytes_a_second(
      size_bytes, [&] { std::memcpy(arrays.target.data(), arrays.source.data(), size_bytes); });
  std::printf("%zu KiB, memcpy %.1f GB/s\n%-25s", size_bytes / 1024, copy,
              "dtype          operation");
  for (const cpu::Variant* variant : cpu::usable_variants()) std::printf(" %8s", variant->name);
  std::printf("   GB/s\n");
  for (int dtype = 0; dtype < kDTypeCount; ++dtype)
    measure_dtype(arrays, static_cast<DType>(dtype));
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat8E4M3,
                            DType::kFloat8E5M2, DType::kFloat8E4M3Fnuz, DType::kFloat8E5M2Fnuz})
    measure_conversions(arrays, dtype);
}

}  // namespace
}  // namespace fastgpu

int main(int argc, char** argv) {
  const long size_kib = argc > 1 ? std::strtol(argv[1], nullptr, 10) : 256;
  if (size_kib <= 0 || size_kib > 1 << 20) {
    std::fprintf(stderr, "usage: %s [SIZE_KIB], 1 to 1048576\n", argv[0]);
    return 2;
  }
  fastgpu::measure_all(static_cast<std::size_t>(size_kib) * 1024);
  return 0;
}
