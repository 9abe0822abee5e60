// Cases of the codec kernels on the pretended machine.
#pragma once

#include <string>

#include "codec_case.h"

namespace fastgpu::test {

// Compare every byte around and in what a kernel writes with what the CPU's kernels make of it.
// Return what differs, or "".
std::string run_encode(const CodecCase& codec_case);
std::string run_decode(const CodecCase& codec_case);
std::string run_add_residual(const CodecCase& codec_case);

}  // namespace fastgpu::test
