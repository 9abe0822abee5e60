// The codecs that shorten float32 data on its way between ranks, and what they make of a count.
// Threading: constants and pure functions.
#pragma once

#include <cstdint>
#include <string_view>

namespace fastgpu {

enum class Codec : uint8_t {
  kNone,
  kFloat16,
  kBFloat16,
  kInt8,    // blocks of kInt8Block elements that share a scale
  kInt4,    // blocks of kInt4Block elements that share a scale
  kTopk,    // the largest of blocks of kTopkBlock elements, one of every kTopkShare
  kOneBit,  // signs, in blocks of kOneBitBlock elements with a scale
};
inline constexpr int kCodecCount = 7;
// The codecs before this number are also for calls without error feedback.
inline constexpr int kGroupCodecCount = 5;

inline constexpr uint64_t kInt8Block = 64;
inline constexpr uint64_t kInt4Block = 32;
inline constexpr uint64_t kScaleBytes = 2;
inline constexpr uint64_t kOneBitBlock = 128;
inline constexpr uint64_t kTopkBlock = 4096;
inline constexpr uint64_t kTopkShare = 64;  // 1.6%; docs/compression.md says why
inline constexpr uint64_t kTopkEntryBytes = 2;

// The entries of topk. kTopkShare divides kTopkBlock, so the blocks need not be counted apart.
constexpr uint64_t topk_entries(uint64_t count) { return (count + kTopkShare - 1) / kTopkShare; }

std::string_view name_of(Codec codec);  // as FASTGPU_CODEC takes it: "int8"

// The bytes that `count` float32 elements take when encoded. It depends on nothing else.
constexpr uint64_t encoded_bytes(Codec codec, uint64_t count) {
  switch (codec) {
    case Codec::kNone:
      return count * sizeof(float);
    case Codec::kFloat16:
    case Codec::kBFloat16:
      return count * 2;
    case Codec::kInt8:
      return count + (count + kInt8Block - 1) / kInt8Block * kScaleBytes;
    case Codec::kInt4:
      return (count + 1) / 2 + (count + kInt4Block - 1) / kInt4Block * kScaleBytes;
    case Codec::kTopk:
      return topk_entries(count) * kTopkEntryBytes + (count + kTopkBlock - 1) / kTopkBlock;
    case Codec::kOneBit:
      return (count + 7) / 8 + (count + kOneBitBlock - 1) / kOneBitBlock * kScaleBytes;
  }
  return 0;
}

}  // namespace fastgpu
