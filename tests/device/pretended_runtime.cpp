#include "pretended_runtime.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/memory_file.h"
#include "codec/codec.h"
#include "codec/residual.h"
#include "kernels/reduce.h"
#include "pretended_memory.h"
#include "pretended_stream.h"
#include "simt_machine.h"

namespace fastgpu::test {
namespace {

// As the device does: every source is read before a target is written.
void reduce_now(const std::vector<const std::byte*>& sources,
                const std::vector<std::byte*>& targets, const ReduceLaunch& launch) {
  const std::size_t count = launch.size_bytes / size_of(launch.dtype);
  std::vector<std::byte> sum(sources.front(), sources.front() + launch.size_bytes);
  for (std::size_t i = 1; i < sources.size(); ++i) {
    find_reduce(launch.dtype, launch.reduce_op)(sum.data(), sources[i], count);
  }
  if (launch.factor != 1) scale(sum.data(), count, launch.dtype, launch.factor);
  for (std::byte* const target : targets) std::memcpy(target, sum.data(), launch.size_bytes);
}

// Numbers the runtimes of this process, beginning with 1.
uint32_t next_runtime() {
  static std::atomic<uint32_t> made{0};
  return ++made;
}

class PretendedRuntime final : public DeviceRuntime {
 public:
  explicit PretendedRuntime(const PretendedOptions& options)
      : options_(options), turns_(static_cast<std::size_t>(options.devices)) {}

  int device_count() const override { return options_.devices; }
  DeviceProperties properties(int device) override {
    require_device(device);
    DeviceProperties properties;
    properties.uuid[0] = static_cast<uint8_t>(device + 1);
    if (!options_.shared_gpu) {
      const auto process = static_cast<uint32_t>(::getpid());
      std::memcpy(properties.uuid.data() + 8, &process, sizeof process);
      std::memcpy(properties.uuid.data() + 12, &number_, sizeof number_);
    }
    properties.name = "pretended device";
    properties.memory_bytes = uint64_t{1} << 30;
    properties.multiprocessors = 2;
    return properties;
  }

  DeviceSegment allocate(int device, std::size_t size_bytes) override {
    require_device(device);
    std::byte* const base =
        memory_.map(make_memory_file("fastgpu-pretended", size_bytes), size_bytes);
    // Like memory that was used before. Not all of a large piece, whose pages no test may ever
    // touch.
    std::memset(base, 0xee, std::min(size_bytes, std::size_t{1} << 20));
    return {base, size_bytes, device};
  }
  void free(const DeviceSegment& segment) noexcept override { memory_.unmap(segment.base); }
  SharedSegment share(const DeviceSegment& segment) override {
    return {memory_.descriptor(segment.base), segment.size_bytes};
  }
  DeviceSegment map(int device, const SharedSegment& shared) override {
    require_device(device);
    if (options_.fault == RuntimeFault::kMapsNothing) {
      raise(ErrorKind::kAborted, "the pretended device reaches no other one");
    }
    if (options_.fault == RuntimeFault::kMapsOther) return allocate(device, shared.size_bytes);
    UniqueFd fd = duplicate(shared.fd.get(), "pretended device memory");
    return {memory_.map(std::move(fd), shared.size_bytes, options_.maps_apart), shared.size_bytes,
            device};
  }
  void unmap(const DeviceSegment& mapped) noexcept override { memory_.unmap(mapped.base); }

  std::byte* allocate_pinned(std::size_t size_bytes) override {
    return memory_.map(make_memory_file("fastgpu-pinned", size_bytes), size_bytes);
  }
  void free_pinned(std::byte* memory) noexcept override { memory_.unmap(memory); }

  StreamHandle make_stream(int device) override {
    require_device(device);
    return {new PretendedStream(turns_[static_cast<std::size_t>(device)],
                                options_.seed + ++streams_, options_.most_delay_us),
            device};
  }
  void destroy(StreamHandle stream) noexcept override { delete of(stream); }
  void synchronize(StreamHandle stream) override { of(stream)->synchronize(); }
  bool is_captured(StreamHandle stream) override {
    const std::lock_guard lock(of(stream)->mutex);
    return of(stream)->captured.has_value();
  }

  EventHandle make_event(int device) override {
    require_device(device);
    return {new PretendedEvent, device};
  }
  void destroy(EventHandle event) noexcept override { delete of(event); }
  void record(EventHandle event, StreamHandle stream) override {
    auto record = std::make_shared<Record>();
    {
      const std::lock_guard lock(of(event)->mutex);
      of(event)->latest = record;
    }
    of(stream)->push([record] { record->pass(); });
  }
  bool passed(EventHandle event) override {
    if (options_.fault == RuntimeFault::kDeviceFails) {
      raise(ErrorKind::kAborted, "cannot finish work of the pretended device: it has failed");
    }
    if (options_.fault == RuntimeFault::kEventsPassEarly) return true;
    const auto record = of(event)->get();
    return record == nullptr || record->has_passed();
  }
  void wait(StreamHandle stream, EventHandle event) override {
    if (options_.fault == RuntimeFault::kWaitsForgotten) return;
    if (auto record = of(event)->get()) {
      of(stream)->push([record] { record->await(); });
    }
  }

  void copy(StreamHandle stream, std::byte* target, const std::byte* source,
            std::size_t size_bytes) override {
    if (size_bytes == 0) return;
    memory_.require(target, size_bytes);
    memory_.require(source, size_bytes);
    ++copies_;
    bytes_ += 2 * size_bytes;
    run(stream, [=] { std::memcpy(target, source, size_bytes); });
  }
  void reduce(StreamHandle stream, const ReduceLaunch& launch) override {
    if (launch.size_bytes == 0) return;
    if (find_reduce(launch.dtype, launch.reduce_op) == nullptr || launch.sources.empty() ||
        launch.sources.size() > kMostReduced || launch.size_bytes % size_of(launch.dtype) != 0) {
      raise(ErrorKind::kInvalidArgument, "the pretended device has no such reduction");
    }
    const std::vector sources(launch.sources.begin(), launch.sources.end());
    const std::vector targets(launch.targets.begin(), launch.targets.end());
    for (const std::byte* source : sources) memory_.require(source, launch.size_bytes);
    for (const std::byte* target : targets) memory_.require(target, launch.size_bytes);
    ++reductions_;
    bytes_ += (sources.size() + targets.size()) * launch.size_bytes;
    run(stream, [=] { reduce_now(sources, targets, launch); });
  }

  void encode(StreamHandle stream, const EncodeLaunch& launch) override {
    const CodecKernels* kernels = codec_of(launch.codec);
    memory_.require(reinterpret_cast<const std::byte*>(launch.source), launch.count * 4);
    memory_.require(launch.target, encoded_bytes(launch.codec, launch.count));
    run(stream, [=] {
      Residual residual;
      residual.values = launch.residual;
      if (launch.key.has_value()) {
        kernels->encode_stochastic(launch.source, launch.residual, launch.target, launch.count,
                                   *launch.key);
      } else {
        encode_with(*kernels, residual, std::nullopt, 0, {launch.source, launch.count},
                    launch.target);
      }
    });
  }
  void decode(StreamHandle stream, const DecodeLaunch& launch) override {
    const CodecKernels* kernels = codec_of(launch.codec);
    memory_.require(launch.source, encoded_bytes(launch.codec, launch.count));
    memory_.require(reinterpret_cast<const std::byte*>(launch.target), launch.count * 4);
    run(stream, [=] {
      (launch.adds ? kernels->decode_add : kernels->decode)(launch.source, launch.target,
                                                            launch.count);
      if (launch.factor == 1) return;
      scale(reinterpret_cast<std::byte*>(launch.target), launch.count, DType::kFloat32,
            launch.factor);
    });
  }

  void add_residual(StreamHandle stream, const ResidualLaunch& launch) override {
    memory_.require(reinterpret_cast<const std::byte*>(launch.values), launch.count * 4);
    memory_.require(reinterpret_cast<const std::byte*>(launch.residual), launch.count * 4);
    run(stream, [=] {
      Residual residual;
      residual.values = launch.residual;
      fastgpu::add_residual(residual, 0, {launch.values, launch.count});
    });
  }

  void launch(StreamHandle stream, const KernelLaunch& launch) override {
    require_device(stream.device);
    {
      const std::lock_guard lock(loaded_mutex_);
      if (!loaded_.contains(launch.kernel)) {
        raise(ErrorKind::kInvalidArgument,
              "the pretended device has no such kernel, or load() was not called");
      }
    }
    const auto kernel = reinterpret_cast<PretendedKernel>(const_cast<void*>(launch.kernel));
    const std::vector arguments(launch.arguments.begin(), launch.arguments.end());
    const simt::Grid grid{.blocks = launch.blocks, .threads = launch.threads};
    const uint64_t number = ++launches_;
    if (number > last_launch_.load()) return;
    of(stream)->push([kernel, arguments, grid, seed = options_.seed + number] {
      simt::run_kernel(grid, seed, [&] { kernel(arguments.data()); });
    });
  }
  void load(int device, const void* kernel) override {
    require_device(device);
    if (kernel == nullptr) {
      raise(ErrorKind::kInvalidArgument, "the pretended device has no such kernel");
    }
    const std::lock_guard lock(loaded_mutex_);
    loaded_.insert(kernel);
  }

  uint64_t launches() const { return launches_.load(); }
  void lose_kernels_after(uint64_t count) { last_launch_.store(launches_.load() + count); }

  Traffic traffic() const {
    return {.copies = copies_, .reductions = reductions_, .bytes = bytes_};
  }

 private:
  static const CodecKernels* codec_of(Codec codec) {
    if (has_device_codec(codec)) return find_codec(codec);
    raise(ErrorKind::kInvalidArgument, "the pretended device has no such codec");
  }
  static PretendedStream* of(StreamHandle stream) {
    return static_cast<PretendedStream*>(stream.raw);
  }
  static PretendedEvent* of(EventHandle event) { return static_cast<PretendedEvent*>(event.raw); }
  void require_device(int device) const {
    if (device >= 0 && device < options_.devices) return;
    raise(ErrorKind::kInvalidArgument, "there is no pretended device " + std::to_string(device));
  }
  template <typename Work>
  static void run(StreamHandle handle, const Work& work) {
    PretendedStream* const stream = of(handle);
    stream->push([stream, work] {
      const std::lock_guard turn(stream->turns);
      work();
    });
  }

  const PretendedOptions options_;
  const uint32_t number_ = next_runtime();
  std::vector<std::mutex> turns_;
  std::atomic<uint64_t> streams_{0};
  std::atomic<uint64_t> launches_{0};
  std::atomic<uint64_t> last_launch_{UINT64_MAX};
  std::mutex loaded_mutex_;
  std::set<const void*> loaded_;  // guarded by loaded_mutex_
  std::atomic<uint64_t> copies_{0};
  std::atomic<uint64_t> reductions_{0};
  std::atomic<uint64_t> bytes_{0};
  PretendedMemory& memory_ = PretendedMemory::of_process();
};

}  // namespace

std::unique_ptr<DeviceRuntime> make_pretended_runtime(const PretendedOptions& options) {
  return std::make_unique<PretendedRuntime>(options);
}

Traffic traffic_of(const DeviceRuntime& runtime) {
  return static_cast<const PretendedRuntime&>(runtime).traffic();
}

void run_on_host(StreamHandle stream, std::function<void()> work) {
  static_cast<PretendedStream*>(stream.raw)->push(std::move(work));
}

bool is_idle(StreamHandle stream) {
  auto* const pretended = static_cast<PretendedStream*>(stream.raw);
  const std::lock_guard lock(pretended->mutex);
  return pretended->queue.empty();
}

void begin_capture(StreamHandle stream) {
  auto* const pretended = static_cast<PretendedStream*>(stream.raw);
  const std::lock_guard lock(pretended->mutex);
  pretended->captured.emplace();
}

PretendedGraph end_capture(StreamHandle stream) {
  auto* const pretended = static_cast<PretendedStream*>(stream.raw);
  const std::lock_guard lock(pretended->mutex);
  PretendedGraph graph = std::move(pretended->captured.value());
  pretended->captured.reset();
  return graph;
}

void replay(StreamHandle stream, const PretendedGraph& graph) {
  for (const auto& work : graph) run_on_host(stream, work);
}

uint64_t launches_of(const DeviceRuntime& runtime) {
  return static_cast<const PretendedRuntime&>(runtime).launches();
}

void lose_kernels_after(DeviceRuntime& runtime, uint64_t count) {
  static_cast<PretendedRuntime&>(runtime).lose_kernels_after(count);
}

Gate::Gate(StreamHandle stream) {
  run_on_host(stream, [opened = opened_.get_future().share()] { opened.wait(); });
}

void Gate::open() {
  if (!std::exchange(is_open_, true)) opened_.set_value();
}

}  // namespace fastgpu::test
