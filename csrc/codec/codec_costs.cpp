#include "codec/codec_costs.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <mutex>
#include <vector>

#include "base/clock.h"
#include "codec/codec.h"

namespace fastgpu {
namespace {

constexpr std::size_t kCount = 65'536;  // a chunk of an encoded all_reduce
constexpr int kPasses = 5;

// The least time of a pass: the constants describe the hardware, not the load of the moment.
template <typename Pass>
double us_per_byte(const Pass& pass) {
  TimeNs least = std::numeric_limits<TimeNs>::max();
  for (int i = 0; i < kPasses; ++i) {
    const TimeNs start = now_ns();
    pass();
    least = std::min(least, now_ns() - start);
  }
  return static_cast<double>(least) / kMicrosecond / (kCount * sizeof(float));
}

CodecCosts measure(Codec codec) {
  const CodecKernels* kernels = find_codec(codec);
  if (kernels == nullptr) return {};
  std::vector<float> values(kCount);
  for (std::size_t i = 0; i < kCount; ++i)  // no two neighbours alike
    values[i] = static_cast<float>(i * 40'503 % 65'536) - 32'768;
  std::vector<float> residual(kCount);
  std::vector<std::byte> encoded(encoded_bytes(codec, kCount));
  return {
      us_per_byte([&] { kernels->encode(values.data(), encoded.data(), kCount); }),
      us_per_byte([&] {
        kernels->encode_feedback(values.data(), residual.data(), encoded.data(), kCount);
      }),
      us_per_byte([&] { kernels->decode(encoded.data(), values.data(), kCount); }),
      us_per_byte([&] { kernels->decode_add(encoded.data(), values.data(), kCount); }),
  };
}

}  // namespace

const CodecCosts& costs_of(Codec codec) {
  static std::array<std::once_flag, kCodecCount> measured;
  static std::array<CodecCosts, kCodecCount> costs;
  const auto index = static_cast<std::size_t>(codec);
  std::call_once(measured[index], [&] { costs[index] = measure(codec); });
  return costs[index];
}

}  // namespace fastgpu
