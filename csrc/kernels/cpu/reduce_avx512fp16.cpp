// The kernels for AVX512-FP16: servers from 2023 on. Only the reductions of float16 differ from
// those for AVX-512.
#include "kernels/cpu/variant.h"

#if defined(__AVX512FP16__)
#define FASTGPU_ISA avx512fp16
#include "kernels/cpu/loops.h"

namespace fastgpu::cpu {
namespace {

ReduceKernel find(DType dtype, ReduceOp reduce_op) {
  return dtype == DType::kFloat16 ? avx512fp16::find_short<Float16>(reduce_op)
                                  : kAvx512Variant.find_reduce(dtype, reduce_op);
}

ReduceBothKernel find_both(DType dtype, ReduceOp reduce_op) {
  const ReduceBothKernel other = kAvx512Variant.find_reduce_both(dtype, reduce_op);
  return dtype == DType::kFloat16 && other != nullptr
             ? avx512fp16::reduce_short<Float16, Sum, std::byte>
             : other;
}

void scale_any(std::byte* data, std::size_t count, DType dtype, double factor) {
  kAvx512Variant.scale(data, count, dtype, factor);
}

void widen_any(const std::byte* source, DType dtype, float* target, std::size_t count) {
  kAvx512Variant.widen(source, dtype, target, count);
}

void narrow_any(const float* source, std::byte* target, DType dtype, std::size_t count) {
  kAvx512Variant.narrow(source, target, dtype, count);
}

const CodecKernels* find_any_codec(Codec codec) { return kAvx512Variant.find_codec(codec); }

constexpr Variant kVariant = {"avx512fp16", find,       find_both,     scale_any,
                              widen_any,    narrow_any, find_any_codec};

}  // namespace

const Variant* const kAvx512Fp16Variant = &kVariant;

}  // namespace fastgpu::cpu
#elif defined(__x86_64__)
namespace fastgpu::cpu {

const Variant* const kAvx512Fp16Variant = nullptr;

}  // namespace fastgpu::cpu
#endif
