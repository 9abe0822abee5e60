// Tests calls that exceed the staging memory: consecutive kernels carry out a piece each.
#include <array>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "lane_calls.h"
#include "seeds.h"

namespace fastgpu::test {
namespace {

constexpr std::size_t kStagingBytes = std::size_t{64} << 10;
// Elements of a call of several pieces, of any collective, dtype and world.
constexpr std::size_t kLong = 40'003;

PretendedOptions with_little_staging(uint64_t seed = 1) {
  return {.seed = seed, .staging_bytes = kStagingBytes};
}

// How many kernels the call launches on this rank, after the first call.
uint64_t compare_and_count(GpuRank& rank, const CallShape& shape, bool in_heap, uint64_t seed) {
  rank.collectives();  // sets them up
  const uint64_t before = launches_of(rank.devices());
  compare(rank, shape, in_heap, seed);
  return launches_of(rank.devices()) - before;
}

TEST(every_collective_runs_in_pieces_with_the_bits_of_cpu_tensors) {
  Options options = by_lanes("direct");
  options.lanes = 0;  // as many as there is work for
  for (const uint64_t seed : seeds()) {
    for (const int world : {2, 3}) {
      if (kSanitizer && world != 2) continue;  // it is slow
      with_gpu_ranks(world, options, with_little_staging(seed), [&](GpuRank& rank) {
        uint64_t turn = seed * 1000;
        for (const Collective collective : kCollectives) {
          for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kInt64}) {
            CallShape shape = shape_of(collective, kLong);
            shape.dtype = dtype;
            shape.root = has_root(collective) ? world - 1 : kNoRoot;
            ++turn;
            CHECK(compare_and_count(rank, shape, turn % 2 == 0, turn) > 1);
          }
        }
      });
    }
  }
}

// Sums of integers do not depend on their order, which pieces change here.
TEST(every_algorithm_runs_in_pieces) {
  for (const char* algorithm : {"ring", "halving", "tree"}) {
    with_gpu_ranks(3, by_lanes(algorithm), with_little_staging(), [](GpuRank& rank) {
      uint64_t turn = 1;
      for (const Collective collective :
           {Collective::kAllReduce, Collective::kBroadcast, Collective::kAllGather}) {
        CallShape shape = shape_of(collective, 20'001);
        shape.dtype = DType::kInt64;
        shape.root = has_root(collective) ? 1 : kNoRoot;
        ++turn;
        CHECK(compare_and_count(rank, shape, turn % 2 == 0, turn) > 1);
      }
    });
  }
}

TEST(all_ranks_hold_the_same_bits_of_a_ring_in_pieces) {
  with_gpu_ranks(3, by_lanes("ring"), with_little_staging(), [](GpuRank& rank) {
    const auto me = static_cast<uint64_t>(rank.communicator().rank());
    std::byte* const data = rank.upload(drawn_floats(kLong * sizeof(float), me), false);
    CollectiveCall call = call_of(rank, kLong, data);
    rank.run(call);
    const std::vector<std::byte> mine = rank.download(data, kLong * sizeof(float));
    std::vector<std::byte> roots = mine;
    CollectiveCall broadcast;
    broadcast.shape = shape_of(Collective::kBroadcast, kLong);
    broadcast.shape.root = 0;
    broadcast.data = roots.data();
    rank.communicator().wait(*rank.communicator().run(broadcast), -1);
    CHECK(mine == roots);
  });
}

TEST(pieces_are_as_few_as_the_staging_memory_allows) {
  with_gpu_ranks(2, by_lanes("ring"), with_little_staging(), [](GpuRank& rank) {
    constexpr std::size_t kFits = kStagingBytes / sizeof(float);
    for (const auto& [count, pieces] :
         {std::pair{kFits, 1U}, {kFits + 1, 2U}, {2 * kFits, 2U}, {2 * kFits + 1, 3U}}) {
      CallShape shape = shape_of(Collective::kBroadcast, count);
      shape.root = 0;
      CHECK_EQ(compare_and_count(rank, shape, true, count), pieces);
    }
  });
}

TEST(averages_and_scaled_sums_run_in_pieces) {
  with_gpu_ranks(2, by_lanes("direct"), with_little_staging(), [](GpuRank& rank) {
    uint64_t turn = 1;
    for (const Collective collective :
         {Collective::kAllReduce, Collective::kReduce, Collective::kReduceScatter}) {
      for (const DType dtype : {DType::kFloat32, DType::kFloat16}) {
        for (const ReduceOp reduce_op : {ReduceOp::kAvg, ReduceOp::kPremulSum}) {
          CallShape shape = shape_of(collective, kLong);
          shape.dtype = dtype;
          shape.reduce_op = reduce_op;
          shape.root = has_root(collective) ? 0 : kNoRoot;
          ++turn;
          CHECK(compare_and_count(rank, shape, turn % 2 == 0, turn) > 1);
        }
      }
    }
  });
}

// The result lies where the rank's own part of the input does, as torch does it.
TEST(pieces_of_calls_in_place_do_not_overwrite_later_ones) {
  for (const bool in_heap : {false, true}) {
    with_gpu_ranks(2, by_lanes("direct"), with_little_staging(), [&](GpuRank& rank) {
      const auto me = static_cast<uint64_t>(rank.communicator().rank());
      constexpr std::size_t kBytes = kLong * sizeof(float);
      for (const Collective collective :
           {Collective::kReduceScatter, Collective::kAllGather, Collective::kReduce}) {
        const bool has_parts = collective != Collective::kReduce;
        const std::size_t size_bytes = has_parts ? 2 * kBytes : kBytes;
        const std::size_t part_at = has_parts ? me * kBytes : 0;
        const bool gathers = collective == Collective::kAllGather;
        std::vector<std::byte> expected = drawn_floats(size_bytes, 7 + me);
        std::byte* const tensor = rank.upload(expected, in_heap);
        const auto make = [&](std::byte* base) {
          CollectiveCall call;
          call.shape = shape_of(collective, kLong);
          call.shape.root = has_parts ? kNoRoot : 1;
          call.input = gathers ? base + part_at : base;
          call.data = gathers ? base : base + part_at;
          return call;
        };
        const std::vector<std::byte> before = expected;
        CollectiveCall on_cpu = make(expected.data());
        if (!gathers) on_cpu.input = before.data();
        rank.communicator().wait(*rank.communicator().run(on_cpu), -1);
        rank.run(make(tensor));
        CHECK(rank.download(tensor, size_bytes) == expected);
      }
    });
  }
}

// Averages of ones are ones, after any number of calls.
TEST(pieces_of_tensors_of_the_heap_are_not_copied_unless_they_have_several_blocks) {
  with_gpu_ranks(2, by_lanes("direct"), with_little_staging(), [](GpuRank& rank) {
    const std::vector<float> ones(2 * kLong, 1.0F);
    const auto bytes = std::as_bytes(std::span(ones));
    const std::vector<std::byte> before(bytes.begin(), bytes.end());
    std::byte* const input = rank.upload(before, true);
    std::byte* const data = rank.upload(before, true);
    compare(rank, shape_of(Collective::kAllReduce, 5), true, 1);
    CollectiveCall call;
    call.shape = shape_of(Collective::kAllReduce, kLong);
    call.shape.reduce_op = ReduceOp::kAvg;
    call.data = data;
    CHECK(copies_in_the_end(rank, call, 0));
    call.shape = shape_of(Collective::kAllGather, kLong);
    call.input = input;
    const uint64_t launched = launches_of(rank.devices());
    rank.run(call);
    const uint64_t pieces = launches_of(rank.devices()) - launched;
    CHECK(copies_in_the_end(rank, call, 2 * pieces));
    CHECK(rank.download(data, before.size()) == before);
  });
}

TEST(calls_in_pieces_follow_each_other_without_a_wait) {
  for (const uint64_t seed : seeds()) {
    with_gpu_ranks(2, by_lanes("direct"), with_little_staging(seed), [&](GpuRank& rank) {
      const auto me = static_cast<uint64_t>(rank.communicator().rank());
      std::vector<std::byte> expected = drawn_floats(kLong * sizeof(float), seed * 8 + me);
      std::byte* const data = rank.upload(expected, false);
      for (int turn = 0; turn < 3; ++turn) {
        CollectiveCall call;
        call.shape = shape_of(Collective::kAllReduce, kLong);
        call.data = expected.data();
        rank.communicator().wait(*rank.communicator().run(call), -1);
        call.data = data;
        rank.run(call);
      }
      CHECK(rank.download(data, expected.size()) == expected);
    });
  }
}

TEST(a_graph_has_all_pieces) {
  with_gpu_ranks(2, by_lanes("direct"), with_little_staging(), [](GpuRank& rank) {
    const auto me = static_cast<uint64_t>(rank.communicator().rank());
    constexpr std::size_t kBytes = kLong * sizeof(float);
    std::byte* const data = rank.upload(drawn_floats(kBytes, 1), false);
    compare(rank, shape_of(Collective::kAllReduce, 5), true, 1);
    begin_capture(rank.stream());
    rank.communicator().run(call_of(rank, kLong, data));
    const PretendedGraph graph = end_capture(rank.stream());
    for (uint64_t turn = 1; turn < 3; ++turn) {
      std::vector<std::byte> expected = drawn_floats(kBytes, turn * 2 + me);
      rank.write(data, expected);
      replay(rank.stream(), graph);
      CollectiveCall call;
      call.shape = shape_of(Collective::kAllReduce, kLong);
      call.data = expected.data();
      rank.communicator().wait(*rank.communicator().run(call), -1);
      CHECK(rank.download(data, kBytes) == expected);
      compare(rank, shape_of(Collective::kAllReduce, kLong + 2), true, turn);
    }
  });
}

TEST(calls_in_pieces_that_differ_are_named_with_their_whole_counts) {
  with_gpu_ranks(2, by_lanes("direct"), with_little_staging(), [](GpuRank& rank) {
    compare(rank, shape_of(Collective::kAllReduce, 5), true, 1);
    const auto me = static_cast<std::size_t>(rank.communicator().rank());
    std::byte* const data = rank.upload(drawn_floats(4 * kLong + 4, 1), true);
    rank.communicator().run(call_of(rank, kLong + me, data));
    for (const std::size_t count : {kLong, kLong + 1}) {
      CHECK_THROWS(call_until_it_fails(rank, data), CollectiveMismatchError,
                   "all_reduce(count=" + std::to_string(count) + ",");
    }
  });
}

TEST(a_rank_that_is_lost_between_two_pieces_ends_the_kernels_of_the_others) {
  MemoryStore store;
  with_threads(2, [&](int me) {
    PretendedOptions options = with_little_staging(static_cast<uint64_t>(me) + 1);
    options.maps_apart = true;
    GpuRank rank(options, by_lanes("direct"), me, 2, store);
    compare(rank, shape_of(Collective::kAllReduce, kLong), true, 1);
    std::byte* const data = rank.upload(drawn_floats(4 * kLong, 1), true);
    if (me == 0) {
      lose_kernels_after(rank.devices(), 1);
      return rank.run(call_of(rank, kLong, data));  // then it leaves
    }
    const auto waits = [&] {
      rank.communicator().run(call_of(rank, kLong, data));
      call_until_it_fails(rank, data);
    };
    CHECK_THROWS(waits(), PeerLostError, "rank 0 (host");
  });
}

}  // namespace
}  // namespace fastgpu::test
