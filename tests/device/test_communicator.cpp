// Communicators whose tensors are in the memory of pretended GPUs: rendezvous, control links and
// rings as between processes, and results bit for bit those of CPU tensors.
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "comm/device_side.h"
#include "pretended_runtime.h"
#include "seeds.h"
#include "sim/rank_threads.h"

namespace fastgpu::test {
namespace {

// One rank's process: a GPU of its own, and a stream of the caller.
class GpuRank {
 public:
  GpuRank(const PretendedOptions& options, const Options& group, int rank, int world, Store& store)
      : devices_(make_pretended_runtime(options)), stream_(devices_->make_stream(0)) {
    runtime_.set_devices(devices_.get());
    communicator_ = join_world(rank, world, group, store, runtime_);
  }
  ~GpuRank() {
    communicator_->shutdown();
    communicator_.reset();
    devices_->destroy(stream_);
    for (const DeviceSegment& segment : segments_) devices_->free(segment);
    for (std::byte* memory : pinned_) devices_->free_pinned(memory);
  }
  GpuRank(const GpuRank&) = delete;
  GpuRank& operator=(const GpuRank&) = delete;

  Communicator& communicator() { return *communicator_; }
  Runtime& runtime() { return runtime_; }
  StreamHandle stream() const { return stream_; }

  // Memory of the GPU, with a copy of `bytes` once the stream gets there.
  std::byte* upload(const std::vector<std::byte>& bytes, bool in_heap) {
    std::byte* const host = pinned(bytes.size());
    if (!bytes.empty()) std::memcpy(host, bytes.data(), bytes.size());
    std::byte* memory = nullptr;
    if (in_heap) {
      memory = runtime_.device_heap(0).allocate(bytes.size());
    } else {
      segments_.push_back(devices_->allocate(0, bytes.size() + 1));
      memory = segments_.back().base;
    }
    devices_->copy(stream_, memory, host, bytes.size());
    return memory;
  }
  std::vector<std::byte> download(const std::byte* memory, std::size_t size_bytes) {
    std::byte* const host = pinned(size_bytes);
    devices_->copy(stream_, host, memory, size_bytes);
    devices_->synchronize(stream_);
    return {host, host + size_bytes};
  }
  // Runs the call on the GPU. What the stream is given next runs after it.
  void run(CollectiveCall call) {
    call.stream = stream_;
    call.device_end = std::make_shared<DeviceEnd>();
    call.synchronous = false;
    const auto end = call.device_end;
    communicator_->wait(*communicator_->run(std::move(call)), -1);
    end->finish_before(stream_);
  }

 private:
  std::byte* pinned(std::size_t size_bytes) {
    pinned_.push_back(devices_->allocate_pinned(size_bytes + 1));
    return pinned_.back();
  }

  const std::unique_ptr<DeviceRuntime> devices_;
  Runtime runtime_;
  const StreamHandle stream_;
  std::vector<DeviceSegment> segments_;
  std::vector<std::byte*> pinned_;
  std::shared_ptr<Communicator> communicator_;
};

template <typename Body>
void with_gpu_ranks(int world, const Options& group, PretendedOptions options, Body body) {
  MemoryStore store;
  with_threads(world, [&](int rank) {
    PretendedOptions own = options;
    own.seed = options.seed * 100 + static_cast<uint64_t>(rank);
    GpuRank made(own, group, rank, world, store);
    body(made);
  });
}

// Ordinary numbers, if they are taken for float32.
std::vector<std::byte> drawn_floats(std::size_t size_bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> values(size_bytes / sizeof(float));
  for (float& value : values) value = static_cast<float>(random() % 2000) * 0.37F - 300.0F;
  std::vector<std::byte> bytes(size_bytes);
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), values.size() * sizeof(float));
  return bytes;
}

struct BufferSizes {
  std::size_t input = 0;  // bytes; 0: the collective has none
  std::size_t data = 0;
};
BufferSizes sizes_of(const CallShape& shape, std::size_t world) {
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
void compare(GpuRank& rank, CallShape shape, bool in_heap, uint64_t seed) {
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

constexpr std::array kCollectives = {Collective::kAllReduce,     Collective::kReduce,
                                     Collective::kBroadcast,     Collective::kAllGather,
                                     Collective::kGather,        Collective::kScatter,
                                     Collective::kReduceScatter, Collective::kAllToAll};

TEST(collectives_leave_the_bits_of_cpu_tensors) {
  for (const uint64_t seed : seeds()) {
    for (const char* transport : {"auto", "tcp"}) {
      for (const int world : {1, 2, 3}) {
        with_gpu_ranks(world, options_of("auto", transport), {.seed = seed}, [&](GpuRank& rank) {
          uint64_t turn = seed * 1000;
          for (const Collective collective : kCollectives) {
            for (const std::size_t count : {0, 1, 1000, 40'000}) {
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
  with_gpu_ranks(2, {}, {}, [](GpuRank& rank) {
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

TEST(averages_of_integers_are_refused) {
  with_gpu_ranks(2, {}, {}, [](GpuRank& rank) {
    CollectiveCall call;
    call.shape.collective = Collective::kAllReduce;
    call.shape.dtype = DType::kInt32;
    call.shape.reduce_op = ReduceOp::kAvg;
    call.shape.count = 4;
    call.data = rank.upload(drawn_floats(16, 1), true);
    CHECK_THROWS(rank.run(call), InvalidArgumentError, "AVG of int32");
    compare(rank, {.collective = Collective::kAllReduce, .count = 9}, true, 1);
  });
}

TEST(messages_between_gpus) {
  for (const char* transport : {"auto", "tcp"}) {
    with_gpu_ranks(2, options_of("auto", transport), {}, [](GpuRank& rank) {
      const int me = rank.communicator().rank();
      for (const std::size_t size_bytes : {0, 12, 300'000}) {
        const std::vector<std::byte> sent = drawn_floats(size_bytes, 5 + size_bytes);
        MessageCall call;
        call.peer = 1 - me;
        call.size_bytes = size_bytes;
        call.stream = rank.stream();
        call.device_end = std::make_shared<DeviceEnd>();
        call.data = rank.upload(me == 0 ? sent : std::vector<std::byte>(size_bytes), true);
        const auto work = me == 0 ? rank.communicator().send(call) : rank.communicator().recv(call);
        rank.communicator().wait(*work, -1);
        call.device_end->finish_before(rank.stream());
        CHECK(rank.download(call.data, size_bytes) == sent);
      }
    });
  }
}

// Ranks that cannot read each other's memory, or read something else there, use pinned memory.
TEST(access_between_gpus_is_tested) {
  for (const RuntimeFault fault : {RuntimeFault::kMapsOther, RuntimeFault::kMapsNothing}) {
    with_gpu_ranks(2, {}, {.fault = fault}, [](GpuRank& rank) {
      for (const std::size_t count : {1, 40'000}) {
        compare(rank, {.collective = Collective::kAllReduce, .count = count}, true, count);
      }
    });
  }
}

TEST(set_up_has_no_number) {
  with_gpu_ranks(2, {}, {}, [](GpuRank& rank) {
    CHECK_EQ(rank.communicator().sequence(), 0U);
    compare(rank, {.collective = Collective::kAllReduce, .count = 9}, true, 1);
    CHECK_EQ(rank.communicator().sequence(), 1U);  // that on CPU tensors
    CHECK_EQ(rank.communicator().counters().operations, 2U);
  });
}

// A rank that cannot use its GPU says so, and the others raise instead of waiting for it.
TEST(a_rank_without_its_gpu_is_named_by_all) {
  with_gpu_ranks(3, {}, {}, [](GpuRank& rank) {
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

TEST(captured_calls_are_refused) {
  with_gpu_ranks(2, {}, {.fault = RuntimeFault::kCaptures}, [](GpuRank& rank) {
    CollectiveCall call;
    call.shape.collective = Collective::kAllReduce;
    call.shape.count = 4;
    call.data = rank.upload(drawn_floats(16, 1), true);
    CHECK_THROWS(rank.run(call), InvalidArgumentError, "cannot be captured in a graph");
    MessageCall message;
    message.peer = 1 - rank.communicator().rank();
    message.stream = rank.stream();
    CHECK_THROWS(rank.communicator().send(message), InvalidArgumentError, "cannot be captured");
  });
}

TEST(a_group_uses_one_gpu) {
  with_gpu_ranks(2, {}, {.devices = 2}, [](GpuRank& rank) {
    compare(rank, {.collective = Collective::kAllReduce, .count = 9}, true, 1);
    CollectiveCall call;
    call.shape.collective = Collective::kAllReduce;
    call.shape.count = 4;
    call.data = rank.upload(drawn_floats(16, 1), true);
    call.stream = rank.stream();
    call.stream->device = 1;
    CHECK_THROWS(rank.communicator().run(call), InvalidArgumentError,
                 "the group uses GPU 0 on this rank");
  });
}

TEST(a_rank_that_leaves_fails_the_collectives_of_the_others) {
  MemoryStore store;
  with_threads(2, [&](int me) {
    GpuRank rank({.seed = static_cast<uint64_t>(me) + 1}, {}, me, 2, store);
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
