// A build without device code says so, and one with it has the kernels that docs/cuda.md lists.
#include "check.h"
#include "engine/device/lane_code.h"
#include "kernels/cuda/codec_code.h"
#include "kernels/cuda/reduce_code.h"
#include "kernels/reduce.h"

namespace fastgpu::test {

TEST(device_code_is_there_as_a_whole_or_not_at_all) {
  const bool built = device::copy_lanes_kernel() != nullptr;
  for (int dtype = 0; dtype < kDTypeCount; ++dtype) {
    for (int op = 0; op < kReduceOpCount; ++op) {
      const auto type = static_cast<DType>(dtype);
      const auto reduce_op = static_cast<ReduceOp>(op);
      CHECK_EQ(device::reduce_all_kernel(type, reduce_op) != nullptr,
               built && find_reduce(type, reduce_op) != nullptr);
    }
  }
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    CHECK_EQ(device::lanes_kernel(dtype, ReduceOp::kSum) != nullptr, built);
    CHECK_EQ(device::small_kernel(dtype, ReduceOp::kSum) != nullptr, built);
  }
  for (int i = 0; i < kCodecCount; ++i) {
    const auto codec = static_cast<Codec>(i);
    const bool is_block = codec == Codec::kInt8 || codec == Codec::kInt4;
    const bool on_device = is_block || codec == Codec::kFloat16 || codec == Codec::kBFloat16;
    CHECK_EQ(device::decode_kernel(codec) != nullptr, built && on_device);
    for (const bool feedback : {false, true}) {
      CHECK_EQ(device::encode_kernel(codec, {.feedback = feedback}) != nullptr, built && on_device);
      CHECK_EQ(device::encode_kernel(codec, {.feedback = feedback, .stochastic = true}) != nullptr,
               built && is_block);
    }
  }
}

}  // namespace fastgpu::test
