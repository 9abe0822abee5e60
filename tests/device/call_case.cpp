#include "call_case.h"

#include <array>
#include <tuple>
#include <utility>

#include "plan/proof/verify.h"
#include "sim/schedule_cases.h"

namespace fastgpu::test {

CallCase draw_call(std::mt19937_64& random, int most_ranks) {
  const auto below = [&](uint64_t n) { return static_cast<int>(random() % n); };
  CallCase call;
  PlanRequest& request = call.request;
  // Every second one is an all_reduce, which has the most algorithms.
  const int collective = below(2 * kCollectiveCount);
  request.collective =
      collective < kCollectiveCount ? static_cast<Collective>(collective) : Collective::kAllReduce;
  const auto algorithms = algorithms_of(request.collective);
  request.algorithm = algorithms[static_cast<std::size_t>(below(algorithms.size()))];
  request.world = 1 + below(static_cast<uint64_t>(most_ranks));
  request.lanes = 1 + below(2);
  constexpr std::array<uint64_t, 8> kCounts{0, 1, 3, 17, 100, 257, 515, 1025};
  request.count = kCounts[static_cast<std::size_t>(below(kCounts.size()))];
  request.chunk_bytes = uint64_t{256} << below(3);
  request.block_bytes = below(2) == 0 ? 0 : 1024;
  if (request.algorithm == Algorithm::kDirect) {
    const bool shots = request.collective == Collective::kAllReduce ||
                       request.collective == Collective::kBroadcast;
    request.shots = shots ? below(3) : 0;
  }
  request.root = below(static_cast<uint64_t>(request.world));
  if (request.algorithm == Algorithm::kHierarchical || below(4) == 0) {
    call.host_of = uneven_hosts(request.world, 1 + below(4), below(3) == 0);
  }
  if (request.collective == Collective::kAllToAll && below(2) == 0) {
    call.all_counts = uneven_counts(request.world, request.count);
  }
  constexpr std::array<std::pair<DType, ReduceOp>, 8> kReductions{{
      {DType::kFloat32, ReduceOp::kSum},
      {DType::kBFloat16, ReduceOp::kSum},
      {DType::kFloat16, ReduceOp::kSum},
      {DType::kFloat32, ReduceOp::kMax},
      {DType::kFloat32, ReduceOp::kAvg},
      {DType::kBFloat16, ReduceOp::kAvg},
      {DType::kInt64, ReduceOp::kSum},
      {DType::kInt8, ReduceOp::kBxor},
  }};
  std::tie(call.dtype, call.reduce_op) =
      kReductions[static_cast<std::size_t>(below(kReductions.size()))];
  request.element_size = static_cast<uint32_t>(size_of(call.dtype));
  return call;
}

std::vector<Schedule> schedules_of(const CallCase& call) {
  PlanRequest request = call.request;
  request.host_of = call.host_of;
  return build_all(request, {.capacity = 0, .seed = 1, .all_counts = call.all_counts});
}

}  // namespace fastgpu::test
