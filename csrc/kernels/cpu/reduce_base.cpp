// The kernels for every CPU of the architecture.
#define FASTGPU_ISA base
#include "kernels/cpu/codec_loops.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/variant.h"

namespace fastgpu::cpu {

const Variant kBaseVariant = {"base",          base::find_reduce, base::find_reduce_both,
                              base::scale,     base::widen_array, base::narrow_array,
                              base::find_codec};

}  // namespace fastgpu::cpu
