#include "base/codec.h"

#include <array>
#include <cstddef>

namespace fastgpu {
namespace {

constexpr std::array<std::string_view, kCodecCount> kNames = {"none", "fp16", "bf16", "int8",
                                                              "int4", "topk", "1bit"};

}  // namespace

std::string_view name_of(Codec codec) { return kNames[static_cast<std::size_t>(codec)]; }

}  // namespace fastgpu
