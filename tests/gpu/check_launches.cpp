// The kernels that communicators launch, with a launch and a stream for each rank. They run at the
// same time only if enough multiprocessors are free, so the GPU must be otherwise idle.
#include <vector>

#include "checks.h"
#include "engine/device/lane_code.h"
#include "gpu_lanes.h"
#include "sim/schedule_cases.h"

namespace fastgpu::test {
namespace {

class Streams {
 public:
  explicit Streams(int count) : streams_(index_of(count)) {
    for (cudaStream_t& stream : streams_) {
      CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    }
  }
  Streams(const Streams&) = delete;
  Streams& operator=(const Streams&) = delete;
  ~Streams() {
    for (cudaStream_t stream : streams_) static_cast<void>(cudaStreamDestroy(stream));
  }
  cudaStream_t of(int rank) const { return streams_[index_of(rank)]; }

 private:
  std::vector<cudaStream_t> streams_;
};

// Before any kernel waits: loading may need an idle GPU, and a kernel that waits keeps it busy.
void load(const void* kernel) {
  cudaFuncAttributes attributes;
  CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
}

std::string run_lanes_apart(const LaneCase& lane_case, const void* kernel) {
  const std::vector<Schedule> schedules = schedules_of(lane_case);
  GpuLanes lanes(lane_case, schedules, buffer_bytes(lane_case, schedules.front()));
  const int world = lane_case.request.world;
  const Streams streams(world);
  load(kernel);
  lanes.fill(0);
  CUDA_CHECK(cudaDeviceSynchronize());
  for (int rank = 0; rank < world; ++rank) {
    launch(kernel, lanes.lanes(), lane_case.threads, lanes.args(rank, 77), streams.of(rank));
  }
  CUDA_CHECK(cudaDeviceSynchronize());
  const std::vector<Results> results{lanes.results()};
  if (const std::string failure = failures_of(lanes.group().controls()); !failure.empty()) {
    return describe(lane_case) + ": " + failure;
  }
  return difference(lane_case, results, play_turns(schedules, lane_case, 1));
}

// What streams have been given since begin(), as a graph.
class Graph {
 public:
  explicit Graph(const Streams& streams, int count) : streams_(streams), count_(count) {
    CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() {
    if (made_ != nullptr) static_cast<void>(cudaGraphExecDestroy(made_));
    static_cast<void>(cudaEventDestroy(event_));
  }

  void begin() {
    CUDA_CHECK(cudaStreamBeginCapture(streams_.of(0), cudaStreamCaptureModeGlobal));
    CUDA_CHECK(cudaEventRecord(event_, streams_.of(0)));
    for (int i = 1; i < count_; ++i) CUDA_CHECK(cudaStreamWaitEvent(streams_.of(i), event_, 0));
  }
  void end() {
    for (int i = 1; i < count_; ++i) {
      CUDA_CHECK(cudaEventRecord(event_, streams_.of(i)));
      CUDA_CHECK(cudaStreamWaitEvent(streams_.of(0), event_, 0));
    }
    cudaGraph_t captured = nullptr;
    CUDA_CHECK(cudaStreamEndCapture(streams_.of(0), &captured));
    CUDA_CHECK(cudaGraphInstantiate(&made_, captured, 0));
    CUDA_CHECK(cudaGraphDestroy(captured));
  }
  void replay() {
    CUDA_CHECK(cudaGraphLaunch(made_, streams_.of(0)));
    CUDA_CHECK(cudaStreamSynchronize(streams_.of(0)));
  }

 private:
  const Streams& streams_;
  const int count_;
  cudaEvent_t event_ = nullptr;
  cudaGraphExec_t made_ = nullptr;
};

// The launches of all ranks, captured once and replayed with other data.
std::string run_lanes_of_a_graph(const LaneCase& lane_case, const void* kernel) {
  constexpr int kReplays = 3;
  const std::vector<Schedule> schedules = schedules_of(lane_case);
  GpuLanes lanes(lane_case, schedules, buffer_bytes(lane_case, schedules.front()));
  const int world = lane_case.request.world;
  const Streams streams(world);
  load(kernel);
  Graph graph(streams, world);
  graph.begin();
  for (int rank = 0; rank < world; ++rank) {
    launch(kernel, lanes.lanes(), lane_case.threads, lanes.args(rank, 77), streams.of(rank));
  }
  graph.end();
  std::vector<Results> results;
  for (int turn = 0; turn < kReplays; ++turn) {
    lanes.fill(turn);
    graph.replay();
    results.push_back(lanes.results());
  }
  if (const std::string failure = failures_of(lanes.group().controls()); !failure.empty()) {
    return describe(lane_case) + ": " + failure;
  }
  return difference(lane_case, results, play_turns(schedules, lane_case, kReplays));
}

std::string run_small_apart(const SmallCase& small_case, const void* kernel) {
  GpuSmall small(small_case);
  const SmallData data = std::move(draw_data(small_case).front());
  const Streams streams(small_case.world);
  load(kernel);
  std::vector<GpuMemory> memory;
  for (const DeviceMemory& input : data.inputs) {
    memory.emplace_back(input.size_bytes());
    memory.back().upload(input.data(), input.size_bytes());
  }
  CUDA_CHECK(cudaDeviceSynchronize());
  const std::size_t size_bytes = data.expected.size_bytes();
  for (int rank = 0; rank < small_case.world; ++rank) {
    launch(kernel, GpuSmall::blocks_of(size_bytes), GpuSmall::kThreads,
           small.args(rank, memory[index_of(rank)], 5), streams.of(rank));
  }
  CUDA_CHECK(cudaDeviceSynchronize());
  if (const std::string failure = failures_of(small.group().controls()); !failure.empty()) {
    return describe(small_case) + ": " + failure;
  }
  std::vector<std::byte> found(size_bytes);
  for (const GpuMemory& each : memory) {
    each.download(found.data(), size_bytes);
    const std::string wrong = first_difference(found.data(), data.expected.data(), size_bytes);
    if (!wrong.empty()) return describe(small_case) + ": " + wrong;
  }
  return "";
}

template <typename Visit>
void for_each_reduction(Visit visit) {
  for (int dtype = 0; dtype < kDTypeCount; ++dtype) {
    for (int op = 0; op < kReduceOpCount; ++op) {
      visit(static_cast<DType>(dtype), static_cast<ReduceOp>(op));
    }
  }
}

void check_lane_kernels(Lines& lines) {
  CaseGroup group(lines, "lanes, every dtype and operation, a launch for each rank");
  uint64_t number = 0;
  for_each_reduction([&](DType dtype, ReduceOp reduce_op) {
    const void* const kernel = device::lanes_kernel(dtype, reduce_op);
    if (kernel == nullptr) return;
    for (const Algorithm algorithm : {Algorithm::kDirect, Algorithm::kRing}) {
      const int world = 2 + static_cast<int>(++number % 7);
      LaneCase lane_case = case_of(Collective::kAllReduce, algorithm, world, number);
      lane_case.dtype = dtype;
      lane_case.reduce_op = reduce_op;
      lane_case.request.element_size = static_cast<uint32_t>(size_of(dtype));
      lane_case.threads = 512;
      group.add(run_lanes_apart(lane_case, kernel));
    }
  });
  for (const Collective collective : {Collective::kAllGather, Collective::kAllToAll}) {
    LaneCase lane_case = case_of(collective, algorithms_of(collective).front(), 8, ++number);
    lane_case.threads = 512;
    group.add(run_lanes_apart(lane_case, device::copy_lanes_kernel()));
  }
  group.finish();
}

void check_graphs(Lines& lines) {
  CaseGroup group(lines, "lanes, launches of all ranks in a graph that is replayed");
  const void* const kernel = device::lanes_kernel(DType::kFloat32, ReduceOp::kSum);
  for (const Algorithm algorithm : {Algorithm::kDirect, Algorithm::kRing}) {
    for (const int world : {2, 4}) {
      LaneCase lane_case = case_of(Collective::kAllReduce, algorithm, world, 3);
      lane_case.dtype = DType::kFloat32;
      lane_case.reduce_op = ReduceOp::kSum;
      lane_case.request.element_size = sizeof(float);
      lane_case.threads = 512;
      group.add(run_lanes_of_a_graph(lane_case, kernel));
    }
  }
  group.finish();
}

void check_small_kernels(Lines& lines) {
  CaseGroup group(lines, "small all_reduce, every dtype and operation, a launch for each rank");
  int number = 0;
  for_each_reduction([&](DType dtype, ReduceOp reduce_op) {
    const void* const kernel = device::small_kernel(dtype, reduce_op);
    if (kernel == nullptr) return;
    SmallCase small_case;
    small_case.world = 2 + ++number % 7;
    small_case.dtype = dtype;
    small_case.reduce_op = reduce_op;
    small_case.averages = reduce_op == ReduceOp::kAvg;
    small_case.counts = {515};
    group.add(run_small_apart(small_case, kernel));
  });
  group.finish();
}

}  // namespace

void check_launches(Lines& lines, const CheckOptions&) {
  check_lane_kernels(lines);
  check_small_kernels(lines);
  check_graphs(lines);
}

}  // namespace fastgpu::test
