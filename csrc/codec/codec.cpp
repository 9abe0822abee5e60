#include "codec/codec.h"

#include "kernels/cpu/variant.h"

namespace fastgpu {

const CodecKernels* find_codec(Codec codec) { return cpu::active_variant().find_codec(codec); }

}  // namespace fastgpu
