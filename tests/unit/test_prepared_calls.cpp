// Which calls find an operation that is ready, and when an operation may be used again.
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "check.h"
#include "comm/prepared_calls.h"

namespace fastgpu {
namespace {

Topology topology_of(int world) {
  Topology topology;
  topology.records.resize(static_cast<std::size_t>(world));
  topology.host_of.assign(static_cast<std::size_t>(world), 0);
  return topology;
}

struct PreparedFixture {
  Topology topology = topology_of(2);
  SymmetricHeap heap;
  Planner planner{0, topology, Options{}};
  OperationBuilder builder{{.rank = 0, .world = 2, .machine = {}}, heap};
  PreparedCalls prepared{planner, builder};
  std::array<float, 64> data{};

  CollectiveCall call(uint64_t count) {
    CollectiveCall call;
    call.shape.collective = Collective::kAllReduce;
    call.shape.dtype = DType::kFloat32;
    call.shape.count = count;
    call.data = reinterpret_cast<std::byte*>(data.data());
    return call;
  }
  const std::shared_ptr<Operation>& prepare(CollectiveCall call) { return prepared.prepare(call); }
};

TEST(the_next_call_of_a_shape_uses_the_same_operation) {
  PreparedFixture fixture;
  const Operation* first = fixture.prepare(fixture.call(8)).get();
  CollectiveCall again = fixture.call(8);
  again.data += 4;
  again.timeout_ms = 7;
  const Operation* second = fixture.prepare(again).get();
  CHECK(second == first);
  CHECK(second->task.data == again.data);
  CHECK_EQ(second->task.timeout_ns, 7 * kMillisecond);
}

TEST(calls_of_another_shape_are_not_mixed_up) {
  PreparedFixture fixture;
  for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kSum}) {
    for (uint64_t count = 1; count <= 64; ++count) {  // more than there are slots
      CollectiveCall call = fixture.call(count);
      call.shape.reduce_op = op;
      const auto& operation = fixture.prepare(call);
      CHECK(operation->task.call.shape == call.shape);
      CHECK(operation->task.key == pack(operation->task.call));
    }
  }
}

TEST(counts_of_an_all_to_all_are_not_mixed_up) {
  PreparedFixture fixture;
  const auto prepared = [&](std::vector<uint64_t> send_counts, std::vector<uint64_t> recv_counts) {
    CollectiveCall call = fixture.call(0);
    call.shape.collective = Collective::kAllToAll;
    call.send_counts = std::move(send_counts);
    call.recv_counts = std::move(recv_counts);
    return fixture.prepare(std::move(call))->task.schedule;
  };
  const auto first = prepared({1, 2}, {1, 3});
  CHECK(prepared({1, 2}, {1, 3}) == first);
  CHECK_EQ(frame_bytes(*prepared({1, 2}, {1, 4})).received, uint64_t{16});
  CHECK_EQ(frame_bytes(*prepared({1, 5}, {1, 4})).sent, uint64_t{20});
  CHECK_EQ(frame_bytes(*prepared({}, {})).sent, uint64_t{0});
}

TEST(an_operation_that_somebody_holds_is_not_used_again) {
  PreparedFixture fixture;
  std::shared_ptr<Work> held = work_of(fixture.prepare(fixture.call(8)));
  held->complete();
  const std::shared_ptr<Operation>& second = fixture.prepare(fixture.call(8));
  CHECK(&second->work != held.get());
  CHECK(held->done() && !second->work.done());
}

TEST(an_operation_that_ended_well_is_used_again_as_new) {
  PreparedFixture fixture;
  Operation* first = fixture.prepare(fixture.call(8)).get();
  first->work.complete();
  const std::shared_ptr<Operation>& second = fixture.prepare(fixture.call(8));
  CHECK(second.get() == first);
  CHECK(!second->work.done());
}

TEST(an_operation_that_failed_is_not_used_again) {
  PreparedFixture fixture;
  const std::weak_ptr<Operation> first = fixture.prepare(fixture.call(8));
  first.lock()->work.fail({});
  CHECK(!fixture.prepare(fixture.call(8))->work.done());
  CHECK(first.expired());
}

TEST(a_refused_call_leaves_the_prepared_one) {
  PreparedFixture fixture;
  const Operation* first = fixture.prepare(fixture.call(8)).get();
  CollectiveCall bad = fixture.call(8);
  bad.send_counts = {1};
  CHECK_THROWS(fixture.prepare(std::move(bad)), InvalidArgumentError, "send and receive counts");
  CHECK(fixture.prepare(fixture.call(8)).get() == first);
}

}  // namespace
}  // namespace fastgpu
