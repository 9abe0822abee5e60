// Servers from 2023 on: AVX512-FP16, for the reductions of float16; the rest is as with AVX-512.
#if defined(__x86_64__)
#define FASTGPU_ISA avx512fp16
#include "kernels/cpu/loops.h"
#include "kernels/cpu/variant.h"

namespace fastgpu::cpu {
namespace {

ReduceKernel find(DType dtype, ReduceOp reduce_op) {
  return dtype == DType::kFloat16 ? avx512fp16::find_short<Float16>(reduce_op)
                                  : kAvx512Variant.find_reduce(dtype, reduce_op);
}

ReduceBothKernel find_both(DType dtype, ReduceOp reduce_op) {
  const bool sums = kAvx512Variant.find_reduce_both(dtype, reduce_op) != nullptr;
  return dtype == DType::kFloat16 && sums ? avx512fp16::reduce_short<Float16, Sum, std::byte>
                                          : kAvx512Variant.find_reduce_both(dtype, reduce_op);
}

void scale_all(std::byte* data, std::size_t count, DType dtype, double factor) {
  kAvx512Variant.scale(data, count, dtype, factor);
}

void widen_array(const std::byte* source, DType dtype, float* target, std::size_t count) {
  kAvx512Variant.widen(source, dtype, target, count);
}

void narrow_array(const float* source, std::byte* target, DType dtype, std::size_t count) {
  kAvx512Variant.narrow(source, target, dtype, count);
}

}  // namespace

const Variant kAvx512Fp16Variant = {"avx512fp16", find,        find_both,
                                    scale_all,    widen_array, narrow_array};

}  // namespace fastgpu::cpu
#endif
