// Divides sums of integers by the number of ranks: an average. It is a second launch, so that the
// kernels of sums need no instance for each signed type.
//
// Threading: device code; the threads that are given a Share work together.
#pragma once

#include "base/dtype.h"
#include "kernels/cuda/reduce.h"

namespace fastgpu::device {

template <typename Number>
FASTGPU_DEVICE void divide_share(const DivideArgs& args, Share share) {
  for (uint64_t i = share.first; i < args.count; i += share.stride) {
    std::byte* const place = args.target + i * sizeof(Number);
    store_element(place, divide(load_element<Number>(place), args.divisor));
  }
}

template <typename Number>
FASTGPU_KERNEL FASTGPU_LAUNCH_BOUNDS(kBlockThreads, 1)
    divide_all(FASTGPU_PARAMETER(DivideArgs) args) {
  divide_share<Number>(args, share_of_grid());
}

using DivideKernel = void (*)(DivideArgs);

// nullptr unless the dtype is an integer.
inline DivideKernel find_divide(DType dtype) {
  switch (dtype) {
    case DType::kInt8:
      return divide_all<int8_t>;
    case DType::kUInt8:
      return divide_all<uint8_t>;
    case DType::kInt16:
      return divide_all<int16_t>;
    case DType::kUInt16:
      return divide_all<uint16_t>;
    case DType::kInt32:
      return divide_all<int32_t>;
    case DType::kUInt32:
      return divide_all<uint32_t>;
    case DType::kInt64:
      return divide_all<int64_t>;
    case DType::kUInt64:
      return divide_all<uint64_t>;
    default:
      return nullptr;
  }
}

}  // namespace fastgpu::device
