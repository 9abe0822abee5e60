// A call, as every rank must make it: the plan key that travels in each frame. Ranks whose calls
// differ get an error that names both, so a Call is data that can be sent and shown, not a hash.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/dtype.h"

namespace fastgpu {

enum class Collective : uint8_t {
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kBroadcast,
  kReduce,
  kGather,
  kScatter,
  kAllToAll,
  kBarrier,
};
inline constexpr int kCollectiveCount = 9;

// `hierarchical` is two levels: inside each host, then between hosts.
enum class Algorithm : uint8_t { kAuto, kDirect, kRing, kTree, kHalving, kHierarchical };
inline constexpr int kAlgorithmCount = 6;

std::string_view name_of(Collective collective);  // as torch writes it: "all_reduce"
std::string_view name_of(Algorithm algorithm);    // as FASTGPU_ALGORITHM takes it: "ring"

// Whether the elements of different ranks are combined with a reduce op.
constexpr bool reduces(Collective collective) {
  return collective == Collective::kAllReduce || collective == Collective::kReduceScatter ||
         collective == Collective::kReduce;
}

// Whether one rank, the root, has a part of its own.
constexpr bool has_root(Collective collective) {
  return collective == Collective::kBroadcast || collective == Collective::kReduce ||
         collective == Collective::kGather || collective == Collective::kScatter;
}

inline constexpr uint16_t kNoRoot = 0xffff;

struct Call {
  Collective collective = Collective::kBarrier;
  DType dtype = DType::kUInt8;
  ReduceOp reduce_op = ReduceOp::kSum;
  Algorithm algorithm = Algorithm::kAuto;
  uint8_t codec = 0;  // 0: data travels as it is
  uint8_t lanes = 1;
  uint16_t root = kNoRoot;
  // Elements: of the tensor for all_reduce, broadcast and reduce; of one rank's part for the
  // others. 0 where the parts may differ (uneven all_to_all): each frame's size is checked instead.
  uint64_t count = 0;

  bool operator==(const Call&) const = default;
};

// The 16 bytes of a frame header that hold a Call, and back. Bytes from a broken peer that name no
// known collective, dtype or reduction come back as false, never as an enum out of range.
std::array<uint64_t, 2> pack(const Call& call);
bool unpack(const std::array<uint64_t, 2>& key, Call& call);

// "all_reduce(count=1024, dtype=float32, op=SUM, algorithm=ring, lanes=2)"
std::string describe(const Call& call);

}  // namespace fastgpu
