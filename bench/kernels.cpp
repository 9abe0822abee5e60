// Measures the reduction kernels: GB of target per second, by dtype, operation and instruction set,
// and memcpy of the same size for comparison. Codecs are measured in GB of float32 per second.
//
//   fastgpu_bench_kernels [SIZE_KIB] [codecs]
//
// `codecs` leaves out the reductions.
//
// With the default, 256 KiB, source and target fit in the L2 cache, like the chunks of a pipelined
// collective.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/codec.h"
#include "base/dtype.h"
#include "codec/codec.h"
#include "codec/residual.h"
#include "kernels/cpu/variant.h"

namespace fastgpu {
namespace {

using Body = std::function<void()>;

// Returns the best of many short trials for each body, so that an interrupted trial does not count.
// The bodies take turns, so that a change of the machine's speed concerns all of them.
std::vector<double> gigabytes_a_second(std::size_t size_bytes, const std::vector<Body>& bodies) {
  using Clock = std::chrono::steady_clock;
  constexpr int kTrials = 60;
  constexpr auto kTrial = std::chrono::microseconds(300);
  const auto limit = std::chrono::milliseconds(60) * bodies.size();
  for (const Body& body : bodies) body();
  std::vector<double> best(bodies.size());
  const auto first = Clock::now();
  for (int trial = 0; trial < kTrials && (trial < 2 || Clock::now() - first < limit); ++trial) {
    for (std::size_t k = 0; k < bodies.size(); ++k) {
      const auto start = Clock::now();
      std::size_t runs = 0;
      std::chrono::duration<double> spent{};
      do {
        bodies[k]();
        ++runs;
        spent = Clock::now() - start;
      } while (spent < kTrial);
      best[k] = std::max(best[k], static_cast<double>(runs * size_bytes) / spent.count() / 1e9);
    }
  }
  return best;
}

double gigabytes_a_second(std::size_t size_bytes, const Body& body) {
  return gigabytes_a_second(size_bytes, std::vector<Body>{body}).front();
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

// Prints a row in GB of float32 per second, and the last variant's share of memcpy's speed.
void print_codec_row(Arrays& arrays, Codec codec, const char* operation,
                     const std::function<Body(const CodecKernels&)>& body_of) {
  std::vector<Body> bodies;
  for (const cpu::Variant* variant : cpu::usable_variants())
    bodies.push_back(body_of(*variant->find_codec(codec)));
  bodies.emplace_back(
      [&arrays] { std::memcpy(arrays.target.data(), arrays.source.data(), arrays.source.size()); });
  const std::vector<double> speeds = gigabytes_a_second(arrays.source.size(), bodies);
  std::printf("%-14s %-10s", std::string(name_of(codec)).c_str(), operation);
  for (std::size_t k = 0; k + 1 < speeds.size(); ++k) std::printf(" %8.1f", speeds[k]);
  std::printf("   %.2f of memcpy\n", speeds[speeds.size() - 2] / speeds.back());
  std::fflush(stdout);
}

void measure_codec(Arrays& arrays, Codec codec) {
  const std::size_t count = arrays.source.size() / sizeof(float);
  Array encoded(encoded_bytes(codec, count));
  Array residual(count * sizeof(float));
  auto* source = reinterpret_cast<float*>(arrays.source.data());
  auto* target = reinterpret_cast<float*>(arrays.target.data());
  auto* lost = reinterpret_cast<float*>(residual.data());
  for (std::size_t i = 0; i < count; ++i) source[i] = std::sin(static_cast<float>(i));
  print_codec_row(arrays, codec, "encode", [&](const CodecKernels& kernels) {
    return [&kernels, &encoded, source, count] { kernels.encode(source, encoded.data(), count); };
  });
  print_codec_row(arrays, codec, "decode", [&](const CodecKernels& kernels) {
    return [&kernels, &encoded, target, count] { kernels.decode(encoded.data(), target, count); };
  });
  print_codec_row(arrays, codec, "decode_add", [&](const CodecKernels& kernels) {
    return
        [&kernels, &encoded, target, count] { kernels.decode_add(encoded.data(), target, count); };
  });
  print_codec_row(arrays, codec, "feedback", [&](const CodecKernels& kernels) {
    return [&kernels, &encoded, source, lost, count] {
      kernels.encode_feedback(source, lost, encoded.data(), count);
    };
  });
  if (cpu::active_variant().find_codec(codec)->encode_stochastic == nullptr) return;
  for (float* residual : {static_cast<float*>(nullptr), lost}) {
    const char* const operation = residual == nullptr ? "stochastic" : "  feedback";
    print_codec_row(arrays, codec, operation, [&](const CodecKernels& kernels) {
      return [&kernels, &encoded, source, residual, count] {
        kernels.encode_stochastic(source, residual, encoded.data(), count, 1);
      };
    });
  }
}

// Encoding with a residual of 8 bits, chunk by chunk as the engine does it.
void measure_short_residual(Arrays& arrays) {
  const std::size_t count = arrays.source.size() / sizeof(float);
  const std::size_t chunk = std::min<std::size_t>(count, 65'536);
  Array encoded(encoded_bytes(Codec::kInt8, chunk));
  Array codes(count);
  Array scales((count + kInt8Block - 1) / kInt8Block * kScaleBytes);
  Residual residual;
  residual.codes = codes.data();
  residual.scales = scales.data();
  residual.count = count;
  const auto* source = reinterpret_cast<const float*>(arrays.source.data());
  for (const Codec codec : {Codec::kInt8, Codec::kInt4}) {
    const double speed = gigabytes_a_second(arrays.source.size(), [&] {
      for (std::size_t first = 0; first < count; first += chunk) {
        encode_with(*find_codec(codec), residual, {}, first,
                    {source + first, std::min(chunk, count - first)}, encoded.data());
      }
    });
    std::printf("%-14s feedback with a residual of 8 bits: %.1f GB/s\n",
                std::string(name_of(codec)).c_str(), speed);
  }
}

void print_heading(std::size_t size_bytes, double copy) {
  std::printf("%zu KiB, memcpy %.1f GB/s\n%-25s", size_bytes / 1024, copy,
              "dtype          operation");
  for (const cpu::Variant* variant : cpu::usable_variants()) std::printf(" %8s", variant->name);
  std::printf("   GB/s\n");
}

double copy_speed(Arrays& arrays) {
  return gigabytes_a_second(arrays.source.size(), [&] {
    std::memcpy(arrays.target.data(), arrays.source.data(), arrays.source.size());
  });
}

void measure_codecs(std::size_t size_bytes) {
  Arrays arrays(size_bytes);
  print_heading(size_bytes, copy_speed(arrays));
  for (const Codec codec : {Codec::kFloat16, Codec::kBFloat16, Codec::kInt8, Codec::kInt4,
                            Codec::kTopk, Codec::kOneBit})
    measure_codec(arrays, codec);
  measure_short_residual(arrays);
}

void measure_all(std::size_t size_bytes) {
  Arrays arrays(size_bytes);
  print_heading(size_bytes, copy_speed(arrays));
  for (int dtype = 0; dtype < kDTypeCount; ++dtype)
    measure_dtype(arrays, static_cast<DType>(dtype));
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat8E4M3,
                            DType::kFloat8E5M2, DType::kFloat8E4M3Fnuz, DType::kFloat8E5M2Fnuz})
    measure_conversions(arrays, dtype);
  measure_codecs(size_bytes);
}

}  // namespace
}  // namespace fastgpu

int main(int argc, char** argv) {
  const long size_kib = argc > 1 ? std::strtol(argv[1], nullptr, 10) : 256;
  const bool only_codecs = argc == 3 && std::strcmp(argv[2], "codecs") == 0;
  if (size_kib <= 0 || size_kib > 1 << 20 || (argc > 2 && !only_codecs)) {
    std::fprintf(stderr, "usage: %s [SIZE_KIB] [codecs], 1 to 1048576\n", argv[0]);
    return 2;
  }
  const std::size_t size_bytes = static_cast<std::size_t>(size_kib) * 1024;
  if (only_codecs) {
    fastgpu::measure_codecs(size_bytes);
  } else {
    fastgpu::measure_all(size_bytes);
  }
  return 0;
}
