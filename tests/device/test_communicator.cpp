// Communicators whose tensors are in the memory of pretended GPUs: rendezvous, control links and
// rings as between processes, and results bit for bit those of CPU tensors.
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "gpu_calls.h"
#include "plan/cost/choose.h"
#include "seeds.h"

namespace fastgpu::test {
namespace {

// For calls that kernels carry out see test_lane_calls.cpp; their failures come with a later call.
Options by_host(const char* algorithm, const char* transport) {
  Options options = options_of(algorithm, transport);
  options.gpu_engine = GpuEngine::kHost;
  return options;
}

TEST(collectives_leave_the_bits_of_cpu_tensors) {
  for (const uint64_t seed : seeds()) {
    // Not `auto`, which depends on measured costs: another algorithm may sum in another order.
    for (const auto& [algorithm, transport] :
         {std::pair{"direct", "auto"}, {"ring", "auto"}, {"halving", "tcp"}}) {
      for (const int world : {1, 2, 3}) {
        if (kSanitizer && world != 2) continue;  // it takes ten times as long there
        with_gpu_ranks(world, by_host(algorithm, transport), {.seed = seed}, [&](GpuRank& rank) {
          uint64_t turn = seed * 1000;
          for (const Collective collective : kCollectives) {
            for (const std::size_t count : {0, 1000, kSanitizer ? 5000 : 40'000}) {
              CallShape shape;
              shape.collective = collective;
              shape.dtype = DType::kFloat32;
              shape.count = count;
              shape.root = has_root(collective) ? world - 1 : kNoRoot;
              ++turn;
              compare(rank, shape, turn % 2 == 0, turn);
            }
          }
        });
      }
    }
  }
}

TEST(reductions_that_multiply_leave_the_bits_of_cpu_tensors) {
  with_gpu_ranks(2, by_host("direct", "auto"), {}, [](GpuRank& rank) {
    uint64_t turn = 1;
    for (const Collective collective :
         {Collective::kAllReduce, Collective::kReduce, Collective::kReduceScatter}) {
      for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kComplex64}) {
        for (const ReduceOp reduce_op : {ReduceOp::kAvg, ReduceOp::kPremulSum, ReduceOp::kSum}) {
          CallShape shape;
          shape.collective = collective;
          shape.dtype = dtype;
          shape.reduce_op = reduce_op;
          shape.count = 1000;
          shape.root = has_root(collective) ? 0 : kNoRoot;
          compare(rank, shape, true, ++turn);
        }
      }
    }
  });
}

TEST(the_algorithm_follows_the_costs_of_gpus) {
  const Constants host;
  const DeviceCosts costs{
      .enqueue_us = 3, .passed_us = 20, .copy_us_per_byte = 1e-6, .pinned_us_per_byte = 4e-5};
  const Constants in_place = constants_with(costs, host, true);
  CHECK_EQ(in_place.same_host.alpha_us, host.same_host.alpha_us + 20);
  CHECK_EQ(in_place.same_host.overhead_us, host.same_host.overhead_us + 3);
  CHECK_EQ(in_place.same_host.beta_us_per_byte, 1e-6);
  CHECK_EQ(in_place.between_hosts.beta_us_per_byte, host.between_hosts.beta_us_per_byte);
  const Constants pinned = constants_with(costs, host, false);
  CHECK_EQ(pinned.same_host.beta_us_per_byte, host.same_host.beta_us_per_byte);
  // A step costs so much that few steps win where bytes would on the CPU.
  ChooseRequest request;
  request.collective = Collective::kAllReduce;
  request.bytes = 4 << 20;
  request.placement = placement_of(4, {});
  CostModel on_cpu(host);
  CHECK(choose(request, on_cpu).algorithm != Algorithm::kDirect);
  CostModel model(in_place);
  CHECK_EQ(name_of(choose(request, model).algorithm), name_of(Algorithm::kDirect));
}

// Set-up finds that out: ranks map nothing, or other memory than they should.
TEST(ranks_that_cannot_read_each_others_memory_use_pinned_memory) {
  for (const RuntimeFault fault : {RuntimeFault::kMapsOther, RuntimeFault::kMapsNothing}) {
    with_gpu_ranks(2, by_host("direct", "auto"), {.fault = fault}, [](GpuRank& rank) {
      for (const std::size_t count : {1, 40'000}) {
        compare(rank, {.collective = Collective::kAllReduce, .count = count}, true, count);
      }
      CHECK(!rank.maps_peer());
    });
  }
}

// All ranks raise the reason of the one whose GPU is missing.
TEST(a_rank_without_its_gpu_is_named_by_all) {
  with_gpu_ranks(3, by_host("direct", "auto"), {}, [](GpuRank& rank) {
    const int me = rank.communicator().rank();
    CollectiveCall call;
    call.shape.collective = Collective::kAllReduce;
    call.shape.count = 4;
    call.data = rank.upload(drawn_floats(16, 1), true);
    StreamHandle stream = rank.stream();
    if (me == 1) stream.device = 7;
    call.stream = stream;
    CHECK_THROWS(rank.communicator().run(call), InvalidArgumentError, "rank 1 (host");
    compare(rank, {.collective = Collective::kAllReduce, .count = 9}, true, 1);
  });
}

TEST(calls_that_cannot_be_made_change_nothing_and_set_up_has_no_number) {
  with_gpu_ranks(2, by_host("direct", "auto"), {.devices = 2}, [](GpuRank& rank) {
    CHECK_EQ(rank.communicator().sequence(), 0U);
    compare(rank, {.collective = Collective::kAllReduce, .count = 9}, true, 1);
    CHECK_EQ(rank.communicator().sequence(), 2U);  // that on CPU tensors, and that on the GPU's
    CHECK_EQ(rank.communicator().counters().operations, 2U);
    CollectiveCall call;
    call.shape.collective = Collective::kAllReduce;
    call.shape.count = 4;
    call.data = rank.upload(drawn_floats(16, 1), true);
    call.shape.dtype = DType::kFloat32;
    call.shape.codec = Codec::kTopk;
    CHECK_THROWS(rank.run(call), InvalidArgumentError, "use fp16, bf16, int8 or int4");
    call.shape.codec = Codec::kNone;
    call.stream = rank.stream();
    call.stream->device = 1;
    CHECK_THROWS(rank.communicator().run(call), InvalidArgumentError,
                 "the group uses GPU 0 on this rank");
    compare(rank, {.collective = Collective::kAllReduce, .count = 9}, true, 2);
    CHECK_EQ(rank.communicator().counters().operations, 4U);
    CHECK(rank.maps_peer());
  });
}

// With error feedback and stochastic rounding, too: results and residuals.
TEST(encoded_sums_leave_the_bits_of_cpu_tensors) {
  with_gpu_ranks(2, by_host("direct", "auto"), {}, [](GpuRank& rank) {
    constexpr std::size_t kCount = 5003;
    const auto me = static_cast<uint64_t>(rank.communicator().rank());
    for (const Codec codec : {Codec::kInt8, Codec::kInt4, Codec::kFloat16, Codec::kBFloat16}) {
      const bool is_block = codec == Codec::kInt8 || codec == Codec::kInt4;
      for (const bool stochastic : {false, is_block}) {
        const std::vector<std::byte> before = drawn_floats(kCount * sizeof(float), 7 + me);
        const std::vector<std::byte> lost = drawn_floats(kCount * sizeof(float), 9 + me);
        std::vector<std::byte> expected = before;
        std::vector<std::byte> expected_lost = lost;
        CollectiveCall call;
        call.shape.collective = Collective::kAllReduce;
        call.shape.dtype = DType::kFloat32;
        call.shape.reduce_op = ReduceOp::kPremulSum;
        call.shape.count = kCount;
        call.shape.codec = codec;
        call.premul_factor = 0.3;
        if (stochastic) call.random_key = 11 + me;
        call.data = expected.data();
        call.residual.values = reinterpret_cast<float*>(expected_lost.data());
        rank.communicator().wait(*rank.communicator().run(call), -1);
        call.data = rank.upload(before, true);
        std::byte* const residual = rank.upload(lost, false);
        call.residual.values = reinterpret_cast<float*>(residual);
        rank.run(call);
        CHECK(rank.download(call.data, before.size()) == expected);
        CHECK(rank.download(residual, lost.size()) == expected_lost);
      }
    }
  });
}

TEST(a_rank_that_leaves_fails_the_collectives_of_the_others) {
  MemoryStore store;
  with_threads(2, [&](int me) {
    GpuRank rank({.seed = static_cast<uint64_t>(me) + 1, .maps_apart = true},
                 by_host("direct", "auto"), me, 2, store);
    compare(rank, {.collective = Collective::kAllReduce, .count = 40'000}, true, 1);
    if (me == 0) return;  // leaves
    CollectiveCall call;
    call.shape.collective = Collective::kAllReduce;
    call.shape.dtype = DType::kFloat32;
    call.shape.count = 40'000;
    call.data = rank.upload(drawn_floats(160'000, 1), true);
    CHECK_THROWS(rank.run(call), PeerLostError, "rank 0 (host");
  });
}

}  // namespace
}  // namespace fastgpu::test
