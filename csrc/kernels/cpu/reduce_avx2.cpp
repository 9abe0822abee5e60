// The kernels for AVX2 and F16C: x86-64 from 2013 on.
#if defined(__x86_64__)
#define FASTGPU_ISA avx2
#include "kernels/cpu/codec_loops.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/variant.h"

namespace fastgpu::cpu {

const Variant kAvx2Variant = {"avx2",          avx2::find_reduce, avx2::find_reduce_both,
                              avx2::scale,     avx2::widen_array, avx2::narrow_array,
                              avx2::find_codec};

}  // namespace fastgpu::cpu
#endif
