// Calls that kernels of pretended GPUs carry out. Threading: each rank by its thread.
#pragma once

#include <chrono>
#include <thread>

#include "gpu_calls.h"

namespace fastgpu::test {

inline Options by_lanes(const char* algorithm) {
  Options options = options_of(algorithm, "auto");
  options.lanes = 1;  // more would part a ring's data otherwise than the CPU does
  options.gpu_engine = GpuEngine::kLanes;
  return options;
}

inline CallShape shape_of(Collective collective, std::size_t count) {
  CallShape shape;
  shape.collective = collective;
  shape.dtype = DType::kFloat32;
  shape.count = count;
  return shape;
}

// An all_reduce that the caller does not wait for on the GPU.
inline CollectiveCall call_of(GpuRank& rank, std::size_t count, std::byte* data) {
  CollectiveCall call;
  call.shape = shape_of(Collective::kAllReduce, count);
  call.data = data;
  call.stream = rank.stream();
  return call;
}

// Makes small calls until one raises the failure of an earlier one: kernels fail later than calls.
inline void call_until_it_fails(GpuRank& rank, std::byte* data) {
  for (int turn = 0; turn < 2000; ++turn) {
    rank.communicator().run(call_of(rank, 1, data));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

// Whether the call enqueues `expected` copies on this rank, once the peers know the memory of its
// tensors. No call waits for that, so two ranks repeat the call until both have seen it, or for too
// long.
inline bool copies_in_the_end(GpuRank& rank, const CollectiveCall& call, uint64_t expected) {
  bool is_seen = false;
  float ranks_done = 0;
  for (int turn = 0; turn < 2000 && ranks_done < 2; ++turn) {
    const uint64_t before = traffic_of(rank.devices()).copies;
    rank.run(call);
    is_seen = traffic_of(rank.devices()).copies - before == expected;
    ranks_done = is_seen ? 1 : 0;
    rank.communicator().wait(*rank.communicator().run(all_reduce_of({&ranks_done, 1})), -1);
  }
  return is_seen;
}

}  // namespace fastgpu::test
