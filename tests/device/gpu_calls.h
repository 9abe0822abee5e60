// Calls of a GpuRank whose results are compared with those of CPU tensors, bit for bit.
// Threading: each rank by its thread.
#pragma once

#include <array>
#include <vector>

#include "check.h"
#include "gpu_rank.h"

namespace fastgpu::test {

struct BufferSizes {
  std::size_t input = 0;  // bytes; 0: the collective has none
  std::size_t data = 0;
};
inline BufferSizes sizes_of(const CallShape& shape, std::size_t world) {
  const std::size_t count = shape.count * size_of(shape.dtype);
  switch (shape.collective) {
    case Collective::kAllReduce:
    case Collective::kBroadcast:
      return {0, count};
    case Collective::kReduceScatter:
      return {count * world, count};
    case Collective::kAllGather:
    case Collective::kGather:
      return {count, count * world};
    case Collective::kScatter:
      return {count * world, count};
    case Collective::kAllToAll:
      return {count * world, count * world};
    default:
      return {count, count};
  }
}

// The call with CPU tensors, then with those of the GPU. Both must leave the same bytes.
inline void compare(GpuRank& rank, CallShape shape, bool in_heap, uint64_t seed) {
  const auto world = static_cast<std::size_t>(rank.communicator().world());
  const auto me = static_cast<uint64_t>(rank.communicator().rank());
  const BufferSizes sizes = sizes_of(shape, world);
  const std::vector<std::byte> input = drawn_floats(sizes.input, seed * 64 + me);
  const std::vector<std::byte> before = drawn_floats(sizes.data, seed * 64 + 32 + me);
  std::vector<std::byte> expected = before;
  CollectiveCall call;
  call.shape = shape;
  call.premul_factor = 0.3;
  call.input = input.data();
  call.data = expected.data();
  rank.communicator().wait(*rank.communicator().run(call), -1);

  call.input = sizes.input == 0 ? nullptr : rank.upload(input, in_heap);
  call.data = rank.upload(before, in_heap);
  const std::byte* const data = call.data;
  rank.run(call);
  if (rank.download(data, expected.size()) != expected) {
    CHECK_EQ(describe(Call{.shape = shape}), "the bytes of CPU tensors");
  }
}

inline constexpr std::array kCollectives = {Collective::kAllReduce,     Collective::kReduce,
                                            Collective::kBroadcast,     Collective::kAllGather,
                                            Collective::kGather,        Collective::kScatter,
                                            Collective::kReduceScatter, Collective::kAllToAll};

}  // namespace fastgpu::test
