// Encode, and decode and reduce, against the CPU's kernels: every byte in and around what a kernel
// writes.
#include <array>
#include <string>
#include <vector>

#include "checks.h"
#include "device/codec_case.h"
#include "gpu.h"
#include "kernels/cuda/codec_args.h"
#include "kernels/cuda/codec_code.h"

namespace fastgpu::test {
namespace {

GpuMemory copy_of(const DeviceMemory& host, std::size_t shift_bytes) {
  GpuMemory memory(host.size_bytes(), shift_bytes);
  memory.upload(host.data(), host.size_bytes());
  return memory;
}

std::string compare(const CodecCase& codec_case, const std::string& what, const GpuMemory& memory,
                    const DeviceMemory& expected) {
  std::vector<std::byte> found(memory.size_bytes());
  memory.download(found.data(), found.size());
  const std::string wrong = first_difference(found.data(), expected.data(), found.size());
  return wrong.empty() ? "" : describe(codec_case) + ": " + what + " differs " + wrong;
}

std::string encode_case(const CodecCase& codec_case) {
  const EncodeData data = draw_encode(codec_case);
  const std::size_t shift_bytes = codec_case.shift * sizeof(float);
  const GpuMemory source = copy_of(data.source, shift_bytes);
  const GpuMemory residual = copy_of(data.residual, shift_bytes);
  const GpuMemory encoded =
      copy_of(DeviceMemory(data.size_bytes), codec_case.encoded_shift);  // with its bytes that stay
  const void* const kernel = device::encode_kernel(
      codec_case.codec, {.feedback = codec_case.feedback, .stochastic = codec_case.stochastic});
  launch(kernel, codec_case.blocks, codec_case.threads,
         device::EncodeArgs{source.as<float>(), residual.as<float>(), encoded.data(),
                            codec_case.count, data.key});
  std::string wrong = compare(codec_case, "the encoding", encoded, data.expected);
  if (!wrong.empty()) return wrong;
  return compare(codec_case, "the residual", residual, data.expected_residual);
}

std::string decode_case(const CodecCase& codec_case) {
  const DecodeData data = draw_decode(codec_case);
  const std::size_t shift_bytes = codec_case.shift * sizeof(float);
  const GpuMemory plain = copy_of(data.plain, shift_bytes);
  const GpuMemory other = copy_of(DeviceMemory(data.plain.size_bytes()), shift_bytes);
  const GpuMemory& target = codec_case.in_place ? plain : other;
  device::DecodeArgs args{};
  std::vector<GpuMemory> sources;
  for (const DeviceMemory& source : data.sources) {
    sources.push_back(copy_of(source, codec_case.encoded_shift));
    args.sources.at[sources.size() - 1] = sources.back().data();
  }
  args.sources.count = codec_case.sources;
  args.plain = plain.as<float>();
  args.plain_at = codec_case.plain_at;
  args.target = target.as<float>();
  args.count = codec_case.count;
  args.factor = codec_case.factor;
  launch(device::decode_kernel(codec_case.codec), codec_case.blocks, codec_case.threads, args);
  return compare(codec_case, "the sum", target, data.expected);
}

std::string residual_case(const CodecCase& codec_case) {
  const ResidualData data = draw_residual(codec_case);
  const std::size_t shift_bytes = codec_case.shift * sizeof(float);
  const GpuMemory values = copy_of(data.values, shift_bytes);
  const GpuMemory residual = copy_of(data.residual, shift_bytes);
  launch(device::residual_kernel(), codec_case.blocks, codec_case.threads,
         device::ResidualArgs{values.as<float>(), residual.as<float>(), codec_case.count});
  std::string wrong = compare(codec_case, "the sum", values, data.expected);
  if (!wrong.empty()) return wrong;
  return compare(codec_case, "the residual", residual, data.expected_residual);
}

}  // namespace

void check_codec(Lines& lines, const CheckOptions& options) {
  CaseGroup residuals(lines, "residuals alone");
  for (const Codec codec : {Codec::kFloat16, Codec::kBFloat16, Codec::kInt8, Codec::kInt4}) {
    CaseGroup encodings(lines, std::string(name_of(codec)) + ", encode");
    CaseGroup sums(lines, std::string(name_of(codec)) + ", decode and reduce");
    for (uint64_t seed = 1; seed <= (options.reduced ? 12 : 200); ++seed) {
      CodecCase drawn = draw_codec_case(codec, seed);
      // Large ones keep every thread of a large grid busy.
      if (!options.reduced && seed % 20 == 0) drawn.count = 300'007;
      drawn.threads = seed % 4 == 0 ? 32 : 512;
      drawn.blocks = seed % 3 == 0 ? 2 : 132;
      encodings.add(encode_case(drawn));
      sums.add(decode_case(drawn));
      residuals.add(residual_case(drawn));
    }
    encodings.finish();
    sums.finish();
  }
  residuals.finish();
}

}  // namespace fastgpu::test
