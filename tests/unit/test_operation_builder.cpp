// Refused calls, and the operations that are made of the others.
#include <array>
#include <memory>
#include <span>
#include <vector>

#include "check.h"
#include "comm/operation_builder.h"
#include "kernels/reduce.h"

namespace fastgpu {
namespace {

constexpr int kWorld = 4;

struct BuilderFixture {
  explicit BuilderFixture(SingleCopy single_copy = SingleCopy::kNever, int cores = 64)
      : builder({.rank = 1,
                 .world = kWorld,
                 .machine = {.ranks = kWorld, .cores = cores},
                 .single_copy = single_copy},
                heap) {}

  // An operation for the call, with a schedule that does nothing.
  std::unique_ptr<Operation> build(CollectiveCall call) {
    Plan plan;
    plan.choice.algorithm = Algorithm::kRing;
    plan.choice.lanes = 2;
    plan.received_bytes = received_bytes;
    plan.schedule = std::make_shared<const Schedule>(schedule);
    auto operation = std::make_unique<Operation>();
    builder.check(call);
    builder.fill(*operation, call, plan);
    return operation;
  }

  uint64_t received_bytes = 0;
  Schedule schedule;
  SymmetricHeap heap;
  OperationBuilder builder;
};

CollectiveCall call_of(Collective collective, std::span<float> data) {
  CollectiveCall call;
  call.shape.collective = collective;
  call.shape.dtype = DType::kFloat32;
  call.shape.count = data.size();
  call.data = reinterpret_cast<std::byte*>(data.data());
  return call;
}

void run(const Operation& operation) {
  if (operation.task.prologue) operation.task.prologue();
  if (operation.task.epilogue) operation.task.epilogue();
}

TEST(calls_that_cannot_be_made_are_refused) {
  BuilderFixture fixture;
  std::array<float, 4> data{};
  CollectiveCall call = call_of(Collective::kBroadcast, data);
  for (const int root : {-1, kWorld, 70000}) {
    call.shape.root = root;
    CHECK_THROWS(fixture.builder.check(call), InvalidArgumentError, "allowed: 0 to 3");
  }
  call = call_of(Collective::kAllReduce, data);
  call.shape.reduce_op = ReduceOp::kBand;
  CHECK_THROWS(fixture.builder.check(call), InvalidArgumentError, "all_reduce: ");
  call = call_of(Collective::kAllToAll, data);
  call.send_counts = {1, 1};
  call.recv_counts = {1, 1};
  CHECK_THROWS(fixture.builder.check(call), InvalidArgumentError, "each of the 4 ranks");
  call.send_counts = {1, 2, 1, 0};
  call.recv_counts = {1, 1, 1, 1};
  CHECK_THROWS(fixture.builder.check(call), InvalidArgumentError, "sends itself 2 elements");
  call.recv_counts = {0, 2, 9, 9};
  fixture.builder.check(call);
}

TEST(what_travels_in_frames_is_what_was_called) {
  BuilderFixture fixture;
  std::array<float, 4> data{};
  CollectiveCall call = call_of(Collective::kAllReduce, data);
  call.shape.root = 2;  // says nothing in an all_reduce, and must not tell ranks apart
  const auto operation = fixture.build(call);
  const Call expected{
      .shape = {.collective = Collective::kAllReduce, .dtype = DType::kFloat32, .count = 4},
      .algorithm = Algorithm::kRing,
      .lanes = 2};
  CHECK(operation->task.call == expected);
  CHECK(operation->task.key == pack(expected));
  CHECK_EQ(operation->task.element_size, uint32_t{4});
}

TEST(an_average_is_scaled_where_its_sum_is_complete) {
  BuilderFixture fixture;
  std::vector<float> data{4, 8};
  CollectiveCall call = call_of(Collective::kAllReduce, data);
  CHECK_EQ(fixture.build(call)->task.factor, 1.0);
  call.shape.reduce_op = ReduceOp::kAvg;
  const auto operation = fixture.build(call);
  CHECK_EQ(operation->task.factor, 0.25);
  CHECK(!operation->task.prologue);
}

TEST(a_factor_is_applied_before_the_sum_to_a_copy_of_the_input) {
  BuilderFixture fixture;
  std::vector<float> input{1, 2, 3, 4};
  std::vector<float> data{0};
  CollectiveCall call = call_of(Collective::kReduceScatter, data);
  call.shape.reduce_op = ReduceOp::kPremulSum;
  call.premul_factor = 3;
  call.input = reinterpret_cast<const std::byte*>(input.data());
  const auto operation = fixture.build(call);
  run(*operation);
  CHECK(input == (std::vector<float>{1, 2, 3, 4}));
  const auto* scaled = reinterpret_cast<const float*>(operation->task.input);
  CHECK(std::vector<float>(scaled, scaled + 4) == (std::vector<float>{3, 6, 9, 12}));
}

TEST(an_average_that_would_overflow_is_scaled_before_the_sum) {
  BuilderFixture fixture;
  std::vector<float> memory(1);
  CollectiveCall call = call_of(Collective::kAllReduce, memory);
  call.shape.dtype = DType::kFloat16;
  call.shape.reduce_op = ReduceOp::kAvg;
  const auto operation = fixture.build(call);
  CHECK(operation->task.prologue);
  CHECK_EQ(operation->task.factor, 1.0);
}

TEST(only_large_results_that_are_not_sums_go_past_the_caches) {
  std::array<float, 4> data{};
  for (const Collective collective : {Collective::kAllReduce, Collective::kAllGather}) {
    for (const uint64_t received_bytes : {uint64_t{100}, uint64_t{1} << 40}) {
      BuilderFixture fixture;
      fixture.received_bytes = received_bytes;
      const auto operation = fixture.build(call_of(collective, data));
      const bool streams = collective == Collective::kAllGather && received_bytes > 100;
      CHECK_EQ(operation->task.copy != nullptr, streams);
    }
  }
}

TEST(receivers_read_large_frames_in_place_unless_they_reduce_or_broadcast) {
  std::array<float, 4> data{};
  const auto from = [&](Collective collective, SingleCopy single_copy, int cores) {
    CollectiveCall call = call_of(collective, data);
    call.shape.root = 0;
    return BuilderFixture(single_copy, cores).build(call)->task.single_copy_from_bytes;
  };
  CHECK_EQ(from(Collective::kAllGather, SingleCopy::kAlways, 64), uint64_t{32 * 1024});
  CHECK_EQ(from(Collective::kAllGather, SingleCopy::kAlways, 2), uint64_t{64 * 1024});
  CHECK_EQ(from(Collective::kAllGather, SingleCopy::kNever, 64), UINT64_MAX);
  CHECK_EQ(from(Collective::kAllReduce, SingleCopy::kAlways, 64), UINT64_MAX);
  CHECK_EQ(from(Collective::kBroadcast, SingleCopy::kAlways, 64), UINT64_MAX);
}

TEST(large_scratch_is_taken_with_the_call) {
  std::array<float, 4> data{};
  for (const std::size_t scratch_bytes : {kSmallScratchBytes, kSmallScratchBytes + 1}) {
    BuilderFixture fixture;
    fixture.schedule.scratch_bytes = scratch_bytes;
    const auto operation = fixture.build(call_of(Collective::kAllReduce, data));
    CHECK_EQ(operation->lacks_scratch(), scratch_bytes == kSmallScratchBytes);
  }
}

}  // namespace
}  // namespace fastgpu
