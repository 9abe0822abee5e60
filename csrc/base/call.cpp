#include "base/call.h"

namespace fastgpu {
namespace {

constexpr std::array<std::string_view, kCollectiveCount> kCollectives{
    "all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce",
    "gather",     "scatter",        "all_to_all", "barrier"};

constexpr std::array<std::string_view, kAlgorithmCount> kAlgorithms{
    "auto", "direct", "ring", "tree", "halving", "hierarchical"};

DType dtype_of(const CallShape& shape) { return shape.widened_from.value_or(shape.dtype); }

}  // namespace

std::string_view name_of(Collective collective) {
  return kCollectives[static_cast<std::size_t>(collective)];
}

std::string_view name_of(Algorithm algorithm) {
  return kAlgorithms[static_cast<std::size_t>(algorithm)];
}

std::array<uint64_t, 2> pack(const Call& call) {
  const CallShape& shape = call.shape;
  const uint64_t first =
      static_cast<uint64_t>(shape.collective) | static_cast<uint64_t>(dtype_of(shape)) << 8 |
      static_cast<uint64_t>(shape.reduce_op) << 16 | static_cast<uint64_t>(call.algorithm) << 24 |
      static_cast<uint64_t>(shape.codec) << 32 | static_cast<uint64_t>(call.lanes) << 40 |
      static_cast<uint64_t>(static_cast<uint16_t>(shape.root)) << 48;
  return {first, shape.count};
}

bool unpack(const std::array<uint64_t, 2>& key, Call& call) {
  const auto byte = [&](int index) { return static_cast<uint8_t>(key[0] >> (8 * index)); };
  if (byte(0) >= kCollectiveCount || byte(1) >= kDTypeCount || byte(2) >= kReduceOpCount ||
      byte(3) >= kAlgorithmCount || byte(4) >= kCodecCount) {
    return false;
  }
  call.shape.collective = static_cast<Collective>(byte(0));
  call.shape.dtype = static_cast<DType>(byte(1));
  call.shape.reduce_op = static_cast<ReduceOp>(byte(2));
  call.algorithm = static_cast<Algorithm>(byte(3));
  call.shape.codec = static_cast<Codec>(byte(4));
  call.lanes = byte(5);
  const auto root = static_cast<uint16_t>(key[0] >> 48);
  call.shape.root = root == static_cast<uint16_t>(kNoRoot) ? kNoRoot : root;
  call.shape.count = key[1];
  return true;
}

std::string describe(const Call& call) {
  std::string text(name_of(call.shape.collective));
  if (call.shape.collective == Collective::kBarrier) return text + "()";
  text += '(';
  // Each pair of ranks may have a count of its own in an all_to_all.
  const bool by_rank = call.shape.collective == Collective::kAllToAll && call.shape.count == 0;
  text += by_rank ? "count=by rank, " : "count=" + std::to_string(call.shape.count) + ", ";
  text += "dtype=" + std::string(name_of(dtype_of(call.shape)));
  if (reduces(call.shape.collective)) text += ", op=" + std::string(name_of(call.shape.reduce_op));
  if (call.shape.root != kNoRoot) text += ", root=" + std::to_string(call.shape.root);
  text += ", algorithm=" + std::string(name_of(call.algorithm));
  if (call.shape.codec != Codec::kNone) text += ", codec=" + std::string(name_of(call.shape.codec));
  text += ", lanes=" + std::to_string(call.lanes) + ")";
  return text;
}

std::string describe(const std::array<uint64_t, 2>& key) {
  Call call;
  return unpack(key, call) ? describe(call) : "an unknown call";
}

Failure mismatch_of(int peer, const std::string& theirs, int rank, const std::string& mine) {
  return make_failure(ErrorKind::kMismatch,
                      "rank " + std::to_string(peer) + " called " + theirs + ", but rank " +
                          std::to_string(rank) + " called " + mine +
                          "; every rank must make the same calls in the same order",
                      peer);
}

}  // namespace fastgpu
