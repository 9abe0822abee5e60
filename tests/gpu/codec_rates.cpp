// The rates of the codec kernels.
#include <string>
#include <vector>

#include "checks.h"
#include "gpu.h"
#include "kernels/cuda/codec_args.h"
#include "kernels/cuda/codec_code.h"
#include "rates.h"

namespace fastgpu::test {
namespace {

constexpr uint64_t kCount = uint64_t{64} << 20;

struct CodecMemory {
  explicit CodecMemory(Codec codec) {
    for (GpuMemory* floats : {&plain, &residual}) floats->fill(kFilled);
    for (int i = 0; i < device::kMaxSources; ++i) {
      encoded.emplace_back(encoded_bytes(codec, kCount));
      encoded.back().fill(kFilled);
    }
  }
  GpuMemory plain{kCount * sizeof(float)};
  GpuMemory residual{kCount * sizeof(float)};
  std::vector<GpuMemory> encoded;
};

Timed encoding(const CodecMemory& memory, Codec codec, bool feedback, bool stochastic) {
  const void* const kernel =
      device::encode_kernel(codec, {.feedback = feedback, .stochastic = stochastic});
  const unsigned blocks = resident_blocks(kernel, 512);
  const device::EncodeArgs args{memory.plain.as<float>(), memory.residual.as<float>(),
                                memory.encoded.front().data(), kCount, 1};
  const double floats = feedback ? 3 : 1;  // the residual is read and written
  return {
      .what = std::string(name_of(codec)) + ", encode" + (feedback ? ", feedback" : "") +
              (stochastic ? ", stochastic" : ""),
      .bytes = floats * kCount * sizeof(float) + static_cast<double>(encoded_bytes(codec, kCount)),
      .target = 0.9,
      .launch = [=] { launch(kernel, blocks, 512, args); }};
}

// An array in place of the target, and `sources` encoded ones.
Timed sum(const CodecMemory& memory, Codec codec, int sources) {
  const void* const kernel = device::decode_kernel(codec);
  const unsigned blocks = resident_blocks(kernel, 512);
  device::DecodeArgs args{};
  args.sources.count = sources;
  for (int i = 0; i < sources; ++i) {
    args.sources.at[i] = memory.encoded[static_cast<std::size_t>(i)].data();
  }
  args.plain = memory.plain.as<float>();
  args.plain_at = 0;
  args.target = memory.plain.as<float>();
  args.count = kCount;
  args.factor = 1;
  return {.what = std::string(name_of(codec)) + ", decode and reduce, " + std::to_string(sources) +
                  " encoded and the target",
          .bytes = 2.0 * kCount * sizeof(float) +
                   sources * static_cast<double>(encoded_bytes(codec, kCount)),
          .target = 0.95,
          .launch = [=] { launch(kernel, blocks, 512, args); }};
}

}  // namespace

void measure_codec(Lines& lines, const CheckOptions&) {
  for (const Codec codec : {Codec::kInt8, Codec::kInt4, Codec::kFloat16, Codec::kBFloat16}) {
    const CodecMemory memory(codec);
    std::vector<Timed> all{encoding(memory, codec, false, false),
                           encoding(memory, codec, true, false)};
    if (codec == Codec::kInt8 || codec == Codec::kInt4) {
      all.push_back(encoding(memory, codec, false, true));
    }
    for (const int sources : {1, 3, 7}) all.push_back(sum(memory, codec, sources));
    measure_beside_copy(lines, all);
  }
}

}  // namespace fastgpu::test
