// Encoded all_reduces over several hosts of several ranks, on memory channels: equal bits on all
// ranks, and error feedback that loses nothing, also when other ranks come to own the shards.
#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "check.h"
#include "codec/codec.h"
#include "kernels/reduce.h"
#include "plan/build.h"
#include "sim/memory_world.h"

namespace fastgpu::by_host {
namespace {

constexpr std::size_t kCount = 3001;
using Floats = std::vector<float>;

Floats normal_numbers(uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  Floats values(kCount);
  for (float& value : values) value = normal(random);
  return values;
}

struct Case {
  Codec codec;
  std::vector<int> host_of;
  int lanes;
  uint64_t seed;
};

// All ranks reduce their `data`. `residuals` by rank; empty: no error feedback.
void reduce(const Case& each, std::vector<Floats>& data, std::vector<Floats>& residuals) {
  World world(static_cast<int>(data.size()), each.seed % 4, each.seed);
  world.plan.block_probability = 0.3;
  std::vector<std::shared_ptr<Work>> works;
  for (std::size_t rank = 0; rank < data.size(); ++rank) {
    PlanRequest request;
    request.algorithm = Algorithm::kHierarchical;
    request.rank = static_cast<int>(rank);
    request.world = world.world;
    request.count = kCount;
    request.element_size = sizeof(float);
    request.lanes = each.lanes;
    request.chunk_bytes = 1000;
    request.codec = each.codec;
    request.host_of = each.host_of;
    auto operation = std::make_shared<Operation>();
    Task& task = operation->task;
    task.schedule = std::make_shared<const Schedule>(build(request));
    task.data = reinterpret_cast<std::byte*>(data[rank].data());
    if (!residuals.empty()) task.residual.values = residuals[rank].data();
    task.scratch_pool = std::make_shared<ScratchPool>();
    task.call.shape.dtype = DType::kFloat32;
    task.call.shape.count = kCount;
    task.key = pack(task.call);
    task.element_size = sizeof(float);
    task.reduce = find_reduce(DType::kFloat32, ReduceOp::kSum);
    task.codec = find_codec(each.codec);
    world.queues[rank]->push(operation);
    works.push_back(work_of(operation));
  }
  CHECK(world.run(200'000));
  for (const auto& work : works) CHECK(work->ok());
}

void check_equal_bits(const std::vector<Floats>& data) {
  for (const Floats& other : data) {
    for (std::size_t i = 0; i < kCount; ++i) {
      CHECK_EQ(std::bit_cast<uint32_t>(other[i]), std::bit_cast<uint32_t>(data[0][i]));
    }
  }
}

}  // namespace

// The hosts change between the steps, and with them the ranks that encode an element.
TEST(feedback_over_hosts_loses_nothing) {
  const std::vector<std::vector<int>> layouts{
      {0, 0, 0, 1, 1}, {0, 1, 0, 1, 1}, {0, 1, 1, 1, 1}, {0, 1, 2, 1, 2}, {0, 1, 2, 3, 4}};
  for (const Codec codec : {Codec::kInt8, Codec::kInt4, Codec::kTopk, Codec::kOneBit}) {
    std::vector<Floats> residuals(5, Floats(kCount));
    std::vector<double> missing(kCount);  // the exact sums less the results
    uint64_t seed = 1;
    for (int step = 0; step < 10; ++step) {
      std::vector<Floats> data;
      for (int rank = 0; rank < 5; ++rank) data.push_back(normal_numbers(++seed));
      for (const Floats& part : data) {
        for (std::size_t i = 0; i < kCount; ++i) missing[i] += part[i];
      }
      reduce({codec, layouts[seed / 5 % layouts.size()], 1 + step % kLanes, seed}, data, residuals);
      check_equal_bits(data);
      double largest = 0;
      for (std::size_t i = 0; i < kCount; ++i) {
        missing[i] -= data[0][i];
        double held = 0;
        for (const Floats& residual : residuals) held += residual[i];
        CHECK(std::abs(missing[i] - held) < 1e-3);
        largest = std::max(largest, std::abs(held));
      }
      CHECK(largest > 1e-3);
    }
  }
}

// Rank 2 owns no shard of the hosts {0, 1, 2} and {3, 4}: its residual is used up and stays empty.
TEST(a_rank_keeps_residuals_only_of_what_it_encodes) {
  std::vector<Floats> residuals(5, Floats(kCount, 0.25F));
  std::vector<Floats> data(5, Floats(kCount, 1.0F));
  reduce({Codec::kInt8, {0, 0, 0, 1, 1}, 1, 7}, data, residuals);
  for (std::size_t i = 0; i < kCount; ++i) {
    CHECK_EQ(residuals[2][i], 0.0F);
    CHECK(residuals[0][i] == 0 || residuals[1][i] == 0);
    CHECK(std::abs(data[0][i] - 6.25F) < 0.2F);
  }
}

TEST(without_feedback_hosts_end_with_equal_bits) {
  for (const Codec codec : {Codec::kBFloat16, Codec::kInt8, Codec::kInt4}) {
    std::vector<Floats> none;
    std::vector<Floats> data;
    for (uint64_t rank = 0; rank < 8; ++rank) data.push_back(normal_numbers(rank));
    reduce({codec, {0, 1, 2, 0, 1, 2, 0, 1}, 2, 3}, data, none);
    check_equal_bits(data);
  }
}

}  // namespace fastgpu::by_host
