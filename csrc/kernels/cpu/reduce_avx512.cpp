// The kernels for AVX-512 F, BW, DQ, VL and VNNI: servers from 2019 on.
#if defined(__x86_64__)
#define FASTGPU_ISA avx512
#include "kernels/cpu/codec_loops.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/variant.h"

namespace fastgpu::cpu {

const Variant kAvx512Variant = {"avx512",          avx512::find_reduce, avx512::find_reduce_both,
                                avx512::scale,     avx512::widen_array, avx512::narrow_array,
                                avx512::find_codec};

}  // namespace fastgpu::cpu
#endif
