// Adds a residual to an array that is not encoded, with the bits of the CPU's add_residual()
// (codec/residual.h).
//
// Threading: device code; the threads that are given a Share work together.
#pragma once

#include "kernels/cuda/codec_args.h"
#include "kernels/cuda/quad.h"

namespace fastgpu::device {

namespace residual {

FASTGPU_DEVICE void deliver(float& value, float& lost) {
  const float sum = value + lost;
  if (lost == 0 || (bits_of(sum) & kFloatMagnitude) >= kFloatInfinity) return;
  value = sum;
  lost = 0;
}

FASTGPU_DEVICE void deliver_pack(std::byte* values, std::byte* residual) {
  Pack sums = load_pack(values);
  Pack losts = load_pack(residual);
  FASTGPU_UNROLL
  for (unsigned i = 0; i < 4; ++i) {
    float value = float_of(sums.word[i]);
    float lost = float_of(losts.word[i]);
    deliver(value, lost);
    sums.word[i] = bits_of(value);
    losts.word[i] = bits_of(lost);
  }
  store_pack(values, sums);
  store_pack(residual, losts);
}

FASTGPU_DEVICE void deliver_element(std::byte* values, std::byte* residual) {
  auto value = load_element<float>(values);
  auto lost = load_element<float>(residual);
  deliver(value, lost);
  store_element(values, value);
  store_element(residual, lost);
}

}  // namespace residual

FASTGPU_DEVICE void add_residual_share(const ResidualArgs& args, Share share) {
  constexpr uint64_t kEach = kPackBytes / sizeof(float);
  const bool aligned = is_aligned(args.values) && is_aligned(args.residual);
  const uint64_t packs = aligned ? args.count / kEach : 0;
  auto* const values = reinterpret_cast<std::byte*>(args.values);
  auto* const lost = reinterpret_cast<std::byte*>(args.residual);
  for (uint64_t at = share.first; at < packs; at += share.stride) {
    residual::deliver_pack(values + at * kPackBytes, lost + at * kPackBytes);
  }
  for (uint64_t i = packs * kEach + share.first; i < args.count; i += share.stride) {
    residual::deliver_element(values + i * sizeof(float), lost + i * sizeof(float));
  }
}

FASTGPU_KERNEL FASTGPU_LAUNCH_BOUNDS(kBlockThreads, 1)
    add_residual(FASTGPU_PARAMETER(ResidualArgs) args) {
  add_residual_share(args, share_of_grid());
}

}  // namespace fastgpu::device
