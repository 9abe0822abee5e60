#include "conversions.h"
#include "gpu.h"
#include "kernels/cuda/combine.h"

namespace fastgpu::test {
namespace {

__device__ void note(WrongCodes* wrong, uint64_t input, uint32_t found) {
  atomicAdd(&wrong->count, 1ull);
  atomicMin(&wrong->first, static_cast<unsigned long long>(input << 32 | found));
}

template <typename Format>
__global__ void compare_narrow(NarrowArgs args) {
  constexpr float kOther = 1.0f;
  const uint32_t other = narrow<Format>(kOther);
  const uint64_t stride = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < args.count; i += stride) {
    const uint64_t bits = args.first + i;
    const float value = float_of(static_cast<uint32_t>(bits));
    const uint32_t expected = args.expected[i];
    const uint32_t lower = device::narrow_pair<Format>(value, kOther);
    const uint32_t upper = device::narrow_pair<Format>(kOther, value);
    if (lower != (other << 16 | expected)) note(args.wrong, bits, lower);
    if (upper != (expected << 16 | other)) note(args.wrong, bits, upper);
  }
}

__device__ bool same(float found, uint32_t expected) {
  const float right = float_of(expected);
  return right != right ? found != found : bits_of(found) == expected;
}

// A thread for each code.
template <typename Format>
__global__ void compare_widen(const uint32_t* expected, WrongCodes* wrong) {
  const uint32_t code = blockIdx.x * blockDim.x + threadIdx.x;
  const float lower = device::widen_half<Format>(code | 0x3c000000, false);
  const float upper = device::widen_half<Format>(code << 16 | 0x3c00, true);
  if (!same(lower, expected[code])) note(wrong, code, bits_of(lower));
  if (!same(upper, expected[code])) note(wrong, code, bits_of(upper));
}

}  // namespace

template <typename Format>
void launch_narrow(const NarrowArgs& args) {
  compare_narrow<Format><<<1024, 256>>>(args);
  CUDA_CHECK(cudaGetLastError());
}

template <typename Format>
void launch_widen(const uint32_t* expected, WrongCodes* wrong) {
  compare_widen<Format><<<256, 256>>>(expected, wrong);
  CUDA_CHECK(cudaGetLastError());
}

template void launch_narrow<Float16>(const NarrowArgs&);
template void launch_narrow<BFloat16>(const NarrowArgs&);
template void launch_widen<Float16>(const uint32_t*, WrongCodes*);
template void launch_widen<BFloat16>(const uint32_t*, WrongCodes*);

}  // namespace fastgpu::test
