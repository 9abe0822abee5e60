// Communicators whose collectives kernels carry out: lanes and small all_reduces, as fibers in the
// streams of pretended GPUs. Ranks are threads here; in test_devices.py they are processes.
#include <array>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "lane_calls.h"
#include "seeds.h"

namespace fastgpu::test {
namespace {

constexpr std::array<const char*, 3> kAlgorithms = {"direct", "ring", "halving"};

TEST(collectives_of_kernels_leave_the_bits_of_cpu_tensors) {
  for (const uint64_t seed : seeds()) {
    for (const char* algorithm : kAlgorithms) {
      for (const int world : {2, 3}) {
        if (kSanitizer && (world != 2 || algorithm == kAlgorithms.back())) continue;  // it is slow
        with_gpu_ranks(world, by_lanes(algorithm), {.seed = seed}, [&](GpuRank& rank) {
          uint64_t turn = seed * 1000;
          for (const Collective collective : kCollectives) {
            for (const std::size_t count : {0, 5, 1000, 5000}) {
              CallShape shape = shape_of(collective, count);
              shape.root = has_root(collective) ? world - 1 : kNoRoot;
              ++turn;
              compare(rank, shape, turn % 2 == 0, turn);
            }
          }
          CHECK(launches_of(rank.devices()) > 24);
        });
      }
    }
  }
}

TEST(kernels_multiply_like_the_cpu) {
  with_gpu_ranks(2, by_lanes("direct"), {}, [](GpuRank& rank) {
    uint64_t turn = 1;
    for (const Collective collective :
         {Collective::kAllReduce, Collective::kReduce, Collective::kReduceScatter}) {
      for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kComplex64}) {
        for (const ReduceOp reduce_op : {ReduceOp::kAvg, ReduceOp::kPremulSum, ReduceOp::kSum}) {
          for (const std::size_t count : {10, 6000}) {
            CallShape shape = shape_of(collective, count);
            shape.dtype = dtype;
            shape.reduce_op = reduce_op;
            shape.root = has_root(collective) ? 0 : kNoRoot;
            compare(rank, shape, true, ++turn);
          }
        }
      }
    }
  });
}

// int32 of little data takes the small all_reduce.
TEST(averages_of_integers_are_divided_after_the_kernel) {
  PretendedOptions options;
  options.staging_bytes = std::size_t{64} << 10;
  with_gpu_ranks(3, by_lanes("direct"), options, [](GpuRank& rank) {
    rank.collectives();  // sets them up
    uint64_t turn = 1;
    for (const Collective collective :
         {Collective::kAllReduce, Collective::kReduce, Collective::kReduceScatter}) {
      for (const DType dtype : {DType::kInt32, DType::kUInt32, DType::kInt64}) {
        for (const std::size_t count : {10, 3001, 9001}) {  // the last one in pieces
          CallShape shape = shape_of(collective, count);
          shape.dtype = dtype;
          shape.reduce_op = ReduceOp::kAvg;
          shape.root = has_root(collective) ? 0 : kNoRoot;
          const uint64_t before = launches_of(rank.devices());
          ++turn;
          compare(rank, shape, turn % 2 == 0, turn);
          CHECK(launches_of(rank.devices()) > before);
        }
      }
    }
  });
}

TEST(calls_that_kernels_cannot_carry_out_are_driven_by_the_host) {
  with_gpu_ranks(2, by_lanes("direct"), {}, [](GpuRank& rank) {
    compare(rank, shape_of(Collective::kAllReduce, 5), true, 1);
    const uint64_t before = launches_of(rank.devices());
    CallShape shape = shape_of(Collective::kAllReduce, 500);
    shape.reduce_op = ReduceOp::kProduct;
    compare(rank, shape, true, 2);
    CHECK_EQ(launches_of(rank.devices()), before);
    compare(rank, shape_of(Collective::kAllReduce, 5000), true, 4);
    CHECK_EQ(launches_of(rank.devices()), before + 1);
  });
}

// Averages of ones are ones, after any number of calls.
TEST(tensors_of_the_heap_are_not_copied) {
  with_gpu_ranks(2, by_lanes("direct"), {}, [](GpuRank& rank) {
    constexpr std::size_t kCount = 5000;
    std::vector<float> ones(2 * kCount, 1.0F);
    const auto bytes_of = [](const std::vector<float>& values) {
      const auto bytes = std::as_bytes(std::span(values));
      return std::vector<std::byte>(bytes.begin(), bytes.end());
    };
    const std::vector<std::byte> before = bytes_of(ones);
    const int me = rank.communicator().rank();
    std::byte* const heap = rank.upload(before, true);
    std::byte* const other = rank.upload(before, true);
    std::byte* const elsewhere = rank.upload(before, false);
    CollectiveCall call;
    call.shape = shape_of(Collective::kAllReduce, kCount);
    call.shape.reduce_op = ReduceOp::kAvg;
    call.data = heap;
    CHECK(copies_in_the_end(rank, call, 0));
    call.data = me == 0 ? heap : elsewhere;  // each rank for itself
    CHECK(copies_in_the_end(rank, call, me == 0 ? 0 : 2));
    call.shape = shape_of(Collective::kReduceScatter, kCount);
    call.shape.reduce_op = ReduceOp::kAvg;
    call.input = heap;
    call.data = other;
    CHECK(copies_in_the_end(rank, call, 0));
    call.data = heap + static_cast<std::size_t>(me) * kCount * sizeof(float);  // over its input
    CHECK(copies_in_the_end(rank, call, 1));
    call.shape = shape_of(Collective::kAllGather, kCount);
    call.input = call.data;
    call.data = heap;
    CHECK(copies_in_the_end(rank, call, 1));
    call.input = elsewhere;
    CHECK(copies_in_the_end(rank, call, 1));
    for (const std::byte* tensor : {heap, other, elsewhere}) {
      CHECK(rank.download(tensor, before.size()) == before);
    }
  });
}

// Ranks that share a GPU have no kernels, since one may keep the other from running. Nor have ranks
// that cannot read the memory of their peers.
TEST(ranks_that_share_a_gpu_or_cannot_read_peers_launch_no_kernels) {
  for (const PretendedOptions& options : {PretendedOptions{.shared_gpu = true},
                                          PretendedOptions{.fault = RuntimeFault::kMapsOther}}) {
    with_gpu_ranks(2, by_lanes("direct"), options, [](GpuRank& rank) {
      for (const std::size_t count : {5, 5000}) {
        compare(rank, shape_of(Collective::kAllReduce, count), true, count);
      }
      CHECK_EQ(launches_of(rank.devices()), 0U);
    });
  }
}

TEST(a_rank_that_never_calls_is_named_by_the_time_out_of_a_kernel) {
  with_gpu_ranks(2, by_lanes("direct"), {}, [](GpuRank& rank) {
    compare(rank, shape_of(Collective::kAllReduce, 5), true, 1);
    std::byte* const data = rank.upload(drawn_floats(40'000, 1), true);
    if (rank.communicator().rank() == 0) {
      CollectiveCall call = call_of(rank, 10'000, data);
      call.timeout_ms = 300;
      rank.communicator().run(call);
      CHECK_THROWS(call_until_it_fails(rank, data), CollectiveTimeoutError,
                   "all_reduce(count=10000");
      CHECK(rank.communicator().failure()->message.find("waited for rank 1 (host") !=
            std::string::npos);
      return;
    }
    while (rank.communicator().failure() == nullptr) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    CHECK_THROWS(rank.communicator().run(call_of(rank, 1, data)), CollectiveTimeoutError, "rank 0");
  });
}

// Both calls are small, both have lanes, or one is small: then the kernels are not the same.
TEST(calls_that_differ_are_named_by_kernels) {
  using Counts = std::array<std::size_t, 2>;  // by rank
  for (const Counts& counts : {Counts{10, 11}, {5000, 5001}, {10, 5000}, {5000, 10}}) {
    with_gpu_ranks(2, by_lanes("direct"), {}, [&](GpuRank& rank) {
      compare(rank, shape_of(Collective::kAllReduce, 5), true, 1);
      compare(rank, shape_of(Collective::kAllReduce, 5000), true, 2);
      const auto me = static_cast<std::size_t>(rank.communicator().rank());
      std::byte* const data = rank.upload(drawn_floats(40'000, 1), true);
      rank.communicator().run(call_of(rank, counts[me], data));
      for (const std::size_t count : counts) {
        CHECK_THROWS(call_until_it_fails(rank, data), CollectiveMismatchError,
                     "all_reduce(count=" + std::to_string(count) + ",");
      }
    });
  }
}

// No kernel has products of float64, so the host drives one rank's call, and a kernel the other's.
TEST(a_call_of_a_kernel_that_meets_one_of_the_host_is_named) {
  for (const int by_host : {0, 1}) {
    for (const std::size_t count : {std::size_t{10}, std::size_t{5000}}) {
      with_gpu_ranks(2, by_lanes("direct"), {}, [&](GpuRank& rank) {
        compare(rank, shape_of(Collective::kAllReduce, count), true, 1);
        std::byte* const data = rank.upload(drawn_floats(40'000, 1), true);
        CollectiveCall call = call_of(rank, count, data);
        if (rank.communicator().rank() == by_host) {
          call.shape.dtype = DType::kFloat64;
          call.shape.reduce_op = ReduceOp::kProduct;
        }
        const auto calls = [&] {
          rank.communicator().wait(*rank.communicator().run(call), -1);
          call_until_it_fails(rank, data);
        };
        CHECK_THROWS(calls(), CollectiveMismatchError, "dtype=float64, op=PRODUCT");
        CHECK(rank.communicator().failure()->message.find("dtype=float32, op=SUM") !=
              std::string::npos);
      });
    }
  }
}

TEST(a_peer_that_confirms_a_segment_it_never_got_is_lost) {
  with_gpu_ranks(2, by_lanes("direct"), {}, [](GpuRank& rank) {
    compare(rank, shape_of(Collective::kAllReduce, 5), true, 1);
    if (rank.communicator().rank() == 1) {
      const PairKey pair{rank.communicator().topology().member, 0};
      rank.runtime().connector().confirm_device_segment(pair, 999);
    }
    std::byte* const data = rank.upload(drawn_floats(40, 1), true);
    if (rank.communicator().rank() == 0) {
      CHECK_THROWS(call_until_it_fails(rank, data), PeerLostError, "has mapped segment 999");
    } else {
      CHECK_THROWS(call_until_it_fails(rank, data), CommError, "rank 0");
    }
  });
}

TEST(a_rank_that_leaves_ends_the_kernels_of_the_others) {
  MemoryStore store;
  with_threads(2, [&](int me) {
    GpuRank rank({.seed = static_cast<uint64_t>(me) + 1, .maps_apart = true}, by_lanes("direct"),
                 me, 2, store);
    compare(rank, shape_of(Collective::kAllReduce, 5), true, 1);
    if (me == 0) return;  // leaves
    std::byte* const data = rank.upload(drawn_floats(40'000, 1), true);
    const auto waits = [&] {
      rank.communicator().run(call_of(rank, 10'000, data));
      call_until_it_fails(rank, data);
    };
    CHECK_THROWS(waits(), PeerLostError, "rank 0 (host");
  });
}

// A graph has the kernels of a small all_reduce and of lanes. Replays take turns with calls.
TEST(captured_collectives_run_in_every_replay) {
  with_gpu_ranks(2, by_lanes("direct"), {}, [](GpuRank& rank) {
    const auto me = static_cast<uint64_t>(rank.communicator().rank());
    std::byte* const small = rank.upload(drawn_floats(20, 1), false);
    std::byte* const large = rank.upload(drawn_floats(20'000, 1), true);
    begin_capture(rank.stream());
    CHECK_THROWS(rank.communicator().run(call_of(rank, 5, small)), InvalidArgumentError,
                 "make one call before the capture");
    end_capture(rank.stream());
    compare(rank, shape_of(Collective::kAllReduce, 5), true, 1);
    begin_capture(rank.stream());
    rank.communicator().run(call_of(rank, 5, small));
    rank.communicator().run(call_of(rank, 5000, large));
    MessageCall message;
    message.peer = 1 - rank.communicator().rank();
    message.stream = rank.stream();
    CHECK_THROWS(rank.communicator().send(message), InvalidArgumentError, "cannot be captured");
    CollectiveCall by_host = call_of(rank, 5000, large);
    by_host.shape.reduce_op = ReduceOp::kProduct;
    CHECK_THROWS(rank.communicator().run(by_host), InvalidArgumentError,
                 "but not in a replay; make the call outside of the capture");
    const PretendedGraph graph = end_capture(rank.stream());
    for (uint64_t turn = 2; turn < 6; ++turn) {
      rank.write(small, drawn_floats(20, turn * 2 + me));
      rank.write(large, drawn_floats(20'000, turn * 2 + me));
      replay(rank.stream(), graph);
      for (const auto& [size_bytes, data] : {std::pair{20U, small}, std::pair{20'000U, large}}) {
        std::vector<std::byte> expected = drawn_floats(size_bytes, turn * 2 + me);
        CollectiveCall call;
        call.shape = shape_of(Collective::kAllReduce, size_bytes / sizeof(float));
        call.data = expected.data();
        rank.communicator().wait(*rank.communicator().run(call), -1);
        CHECK(rank.download(data, size_bytes) == expected);
      }
      compare(rank, shape_of(Collective::kAllReduce, 4000), true, turn);
    }
  });
}

TEST(a_refused_capture_names_the_option_that_brings_kernels) {
  Options options = by_lanes("direct");
  options.gpu_engine = GpuEngine::kHost;
  with_gpu_ranks(2, options, {}, [](GpuRank& rank) {
    compare(rank, shape_of(Collective::kAllReduce, 5), true, 1);
    std::byte* const data = rank.upload(drawn_floats(20, 1), true);
    begin_capture(rank.stream());
    CHECK_THROWS(rank.communicator().run(call_of(rank, 5, data)), InvalidArgumentError,
                 "set FASTGPU_GPU_ENGINE=lanes, or make");
    CHECK_THROWS(rank.communicator().run(call_of(rank, 0, data)), InvalidArgumentError,
                 "but not in a replay; make the call outside of the capture");
    end_capture(rank.stream());
  });
}

}  // namespace
}  // namespace fastgpu::test
