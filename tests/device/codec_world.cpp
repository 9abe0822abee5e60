#include "codec_world.h"

#include "kernels/cuda/find_codec.h"
#include "kernels/cuda/residual.h"
#include "simt_machine.h"

namespace fastgpu::test {
namespace {

std::size_t count_for_kernel(const CodecCase& codec_case) {
  constexpr std::size_t kBlock = kInt8Block;
  if (!codec_case.rounds_count_up) return codec_case.count;
  return (codec_case.count + kBlock - 1) / kBlock * kBlock;
}

std::string compare(const CodecCase& codec_case, const char* what, const DeviceMemory& result,
                    const DeviceMemory& expected) {
  const std::string wrong = first_difference(result.data(), expected.data(), expected.size_bytes());
  return wrong.empty() ? "" : describe(codec_case) + ": " + what + " differs " + wrong;
}

}  // namespace

std::string run_encode(const CodecCase& codec_case) {
  const EncodeData data = draw_encode(codec_case);
  const DeviceMemory encoded(data.size_bytes, codec_case.encoded_shift);
  simt::Machine machine({.seed = codec_case.seed, .fault = codec_case.fault});
  simt::Stream* const stream = machine.make_stream(0);
  const device::EncodeKernel kernel = device::find_encode(
      codec_case.codec, {.feedback = codec_case.feedback, .stochastic = codec_case.stochastic});
  const device::EncodeArgs args{data.source.as<float>(), data.residual.as<float>(), encoded.data(),
                                count_for_kernel(codec_case), data.key};
  machine.launch(stream, {.blocks = codec_case.blocks, .threads = codec_case.threads},
                 [=] { kernel(args); });
  machine.synchronize(stream);
  std::string differs = compare(codec_case, "the encoding", encoded, data.expected);
  if (!differs.empty()) return differs;
  return compare(codec_case, "the residual", data.residual, data.expected_residual);
}

std::string run_decode(const CodecCase& codec_case) {
  const DecodeData data = draw_decode(codec_case);
  const DeviceMemory other(data.plain.size_bytes(), codec_case.shift * sizeof(float));
  const DeviceMemory& target = codec_case.in_place ? data.plain : other;
  device::DecodeArgs args{};
  for (std::size_t i = 0; i < data.sources.size(); ++i) args.sources.at[i] = data.sources[i].data();
  args.sources.count = codec_case.sources;
  args.plain = data.plain.as<float>();
  args.plain_at = codec_case.moves_plain ? 0 : codec_case.plain_at;
  args.target = target.as<float>();
  args.count = codec_case.count;
  args.factor = codec_case.factor;
  simt::Machine machine({.seed = codec_case.seed, .fault = codec_case.fault});
  simt::Stream* const stream = machine.make_stream(0);
  const device::DecodeKernel kernel = device::find_decode(codec_case.codec);
  machine.launch(stream, {.blocks = codec_case.blocks, .threads = codec_case.threads},
                 [=] { kernel(args); });
  machine.synchronize(stream);
  return compare(codec_case, "the sum", target, data.expected);
}

std::string run_add_residual(const CodecCase& codec_case) {
  const ResidualData data = draw_residual(codec_case);
  simt::Machine machine({.seed = codec_case.seed});
  simt::Stream* const stream = machine.make_stream(0);
  const device::ResidualArgs args{data.values.as<float>(), data.residual.as<float>(),
                                  codec_case.count};
  machine.launch(stream, {.blocks = codec_case.blocks, .threads = codec_case.threads},
                 [=] { device::add_residual(args); });
  machine.synchronize(stream);
  std::string differs = compare(codec_case, "the sum", data.values, data.expected);
  if (!differs.empty()) return differs;
  return compare(codec_case, "the residual", data.residual, data.expected_residual);
}

}  // namespace fastgpu::test
