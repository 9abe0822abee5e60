// Calls: one description of a collective for callers, plans, operations and frames. Each frame
// carries the whole call, not a hash of it, so that ranks whose calls differ get an error that
// names both. Thread safety: values.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/codec.h"
#include "base/dtype.h"
#include "base/error.h"

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

inline constexpr int kNoRoot = -1;

// The most ranks of a communicator, so that 16 bits hold any rank, and kNoRoot (docs/wire.md).
inline constexpr int kMaxWorld = 65534;

// The part of a call that its caller chooses.
struct CallShape {
  Collective collective = Collective::kBarrier;
  DType dtype = DType::kUInt8;
  ReduceOp reduce_op = ReduceOp::kSum;
  int root = kNoRoot;
  // In elements. For all_reduce, broadcast and reduce: of the tensor. For the other collectives: of
  // one rank's part. 0 if the parts may differ (uneven all_to_all), which the frame sizes show.
  uint64_t count = 0;
  Codec codec = Codec::kNone;  // of the frames; all_reduce of float32 only
  // The dtype of the caller's tensors, if they were widened to `dtype` for the codec. Frames carry
  // the caller's dtype: float16 on one rank and bfloat16 on another are a mismatch.
  std::optional<DType> widened_from = std::nullopt;

  auto operator<=>(const CallShape&) const = default;
};

// A call as every rank must make it: its shape, and how the ranks carry it out.
struct Call {
  CallShape shape;
  Algorithm algorithm = Algorithm::kAuto;
  uint8_t lanes = 1;

  bool operator==(const Call&) const = default;
};

// The 16 bytes of a frame header that hold a Call, and back. Bytes from a broken peer that name no
// known collective, dtype or reduction come back as false, never as an enum out of range.
std::array<uint64_t, 2> pack(const Call& call);
bool unpack(const std::array<uint64_t, 2>& key, Call& call);

// "all_reduce(count=1024, dtype=float32, op=SUM, algorithm=ring, lanes=2)"
std::string describe(const Call& call);
// describe() for a packed call; "an unknown call" if unpack() refuses it.
std::string describe(const std::array<uint64_t, 2>& key);

// The failure of `rank`, which called `mine` where the peer called `theirs`.
Failure mismatch_of(int peer, const std::string& theirs, int rank, const std::string& mine);

}  // namespace fastgpu
