#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "base/error.h"
#include "device/cuda_driver.h"
#include "device/cuda_memory.h"
#include "device/cuda_runtime.h"
#include "kernels/cuda/codec_args.h"
#include "kernels/cuda/codec_code.h"
#include "kernels/cuda/reduce_args.h"
#include "kernels/cuda/reduce_code.h"

namespace fastgpu {
namespace {

static_assert(kMostReduced == device::kMaxSources);

cudaStream_t raw(StreamHandle stream) { return static_cast<cudaStream_t>(stream.raw); }
cudaEvent_t raw(EventHandle event) { return static_cast<cudaEvent_t>(event.raw); }

class CudaRuntime final : public DeviceRuntime {
 public:
  explicit CudaRuntime(int count)
      : count_(count), contexts_(driver_, count), memory_(driver_), multiprocessors_(count) {}

  int device_count() const override { return count_; }
  DeviceProperties properties(int device) override;

  DeviceSegment allocate(int device, std::size_t size_bytes) override {
    const auto scope = on(device);
    return memory_.allocate(device, size_bytes);
  }
  void free(const DeviceSegment& segment) noexcept override {
    give_back(segment.device, [&] { memory_.free(segment); });
  }
  SharedSegment share(const DeviceSegment& segment) override {
    const auto scope = on(segment.device);
    return memory_.share(segment);
  }
  DeviceSegment map(int device, const SharedSegment& shared) override {
    const auto scope = on(device);
    return memory_.map(device, shared);
  }
  void unmap(const DeviceSegment& mapped) noexcept override {
    give_back(mapped.device, [&] { memory_.unmap(mapped); });
  }

  std::byte* allocate_pinned(std::size_t size_bytes) override;
  void free_pinned(std::byte* memory) noexcept override {
    give_back(contexts_.first_used(), [=] { cudaFreeHost(memory); });
  }

  StreamHandle make_stream(int device) override;
  void destroy(StreamHandle stream) noexcept override {
    give_back(stream.device, [=] { cudaStreamDestroy(raw(stream)); });
  }
  void synchronize(StreamHandle stream) override {
    const auto scope = on(stream.device);
    check_cuda(cudaStreamSynchronize(raw(stream)), "wait for a stream" + of(stream.device));
  }

  bool is_captured(StreamHandle stream) override;

  EventHandle make_event(int device) override;
  void destroy(EventHandle event) noexcept override {
    give_back(event.device, [=] { cudaEventDestroy(raw(event)); });
  }
  void record(EventHandle event, StreamHandle stream) override {
    const auto scope = on(stream.device);
    check_cuda(cudaEventRecord(raw(event), raw(stream)), "record an event" + of(stream.device));
  }
  bool passed(EventHandle event) override;
  void wait(StreamHandle stream, EventHandle event) override {
    const auto scope = on(stream.device);
    check_cuda(cudaStreamWaitEvent(raw(stream), raw(event), 0),
               "make a stream wait" + of(stream.device));
  }

  void copy(StreamHandle stream, std::byte* target, const std::byte* source,
            std::size_t size_bytes) override;
  void reduce(StreamHandle stream, const ReduceLaunch& launch) override;
  void encode(StreamHandle stream, const EncodeLaunch& launch) override;
  void decode(StreamHandle stream, const DecodeLaunch& launch) override;
  void add_residual(StreamHandle stream, const ResidualLaunch& launch) override;
  void launch(StreamHandle stream, const KernelLaunch& launch) override;
  void load(int device, const void* kernel) override;

 private:
  CudaDeviceScope on(int device) const { return {driver_, contexts_.of(device)}; }
  // Calls free(). Its failure is ignored: if the device has failed or CUDA is shut down, there is
  // nothing left to free.
  template <typename Free>
  void give_back(int device, Free free) const noexcept try {
    const auto scope = on(device);
    free();
  } catch (const std::exception&) {
  }
  static std::string of(int device) { return " of GPU " + std::to_string(device); }
  unsigned blocks_for(int device, uint64_t size_bytes);
  // Starts a kernel of csrc/kernels/cuda on a region of `size_bytes`. `what` completes "start ".
  template <typename Args>
  void start(StreamHandle stream, const void* kernel, Args args, uint64_t size_bytes,
             const char* what) {
    const auto scope = on(stream.device);
    void* parameters[] = {&args};
    check_cuda(cudaLaunchKernel(kernel, dim3(blocks_for(stream.device, size_bytes)),
                                dim3(device::kBlockThreads), parameters, 0, raw(stream)),
               std::string("start ") + what + of(stream.device));
  }

  const int count_;
  const CudaDriver driver_;
  const CudaContexts contexts_;
  CudaMemory memory_;
  std::vector<std::atomic<int>> multiprocessors_;  // by device; 0: not asked yet
};

DeviceProperties CudaRuntime::properties(int device) {
  cudaDeviceProp found{};
  check_cuda(cudaGetDeviceProperties(&found, device), "ask for the properties" + of(device));
#if defined(__HIPCC__)
  hipUUID uuid{};
  check_cuda(hipDeviceGetUuid(&uuid, device), "ask for the UUID" + of(device));
#else
  const auto& uuid = found.uuid;
#endif
  DeviceProperties properties;
  std::copy_n(reinterpret_cast<const uint8_t*>(uuid.bytes), properties.uuid.size(),
              properties.uuid.begin());
  properties.name = found.name;
  properties.memory_bytes = found.totalGlobalMem;
  properties.multiprocessors = found.multiProcessorCount;
  properties.compute_major = found.major;
  properties.compute_minor = found.minor;
  return properties;
}

// Portable: every device may use it.
std::byte* CudaRuntime::allocate_pinned(std::size_t size_bytes) {
  const auto scope = on(contexts_.first_used());
  void* memory = nullptr;
  check_cuda(cudaHostAlloc(&memory, size_bytes, cudaHostAllocPortable | cudaHostAllocMapped),
             "allocate " + std::to_string(size_bytes) + " bytes of pinned host memory");
  return static_cast<std::byte*>(memory);
}

StreamHandle CudaRuntime::make_stream(int device) {
  const auto scope = on(device);
  cudaStream_t stream = nullptr;
  int least = 0;
  int greatest = 0;
  check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "make a stream" + of(device));
  check_cuda(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest),
             "make a stream" + of(device));
  return {stream, device};
}

bool CudaRuntime::is_captured(StreamHandle stream) {
  const auto scope = on(stream.device);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(raw(stream), &status),
             "ask whether a stream is captured" + of(stream.device));
  return status != cudaStreamCaptureStatusNone;
}

EventHandle CudaRuntime::make_event(int device) {
  const auto scope = on(device);
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming),
             "make an event" + of(device));
  return {event, device};
}

bool CudaRuntime::passed(EventHandle event) {
  const auto scope = on(event.device);
  const cudaError_t error = cudaEventQuery(raw(event));
  if (error == cudaErrorNotReady) {
    static_cast<void>(cudaGetLastError());  // else a later call reports it as an error
    return false;
  }
  check_cuda(error, "finish work" + of(event.device));
  return true;
}

void CudaRuntime::copy(StreamHandle stream, std::byte* target, const std::byte* source,
                       std::size_t size_bytes) {
  if (size_bytes == 0) return;
  const auto scope = on(stream.device);
  check_cuda(cudaMemcpyAsync(target, source, size_bytes, cudaMemcpyDefault, raw(stream)),
             "copy " + std::to_string(size_bytes) + " bytes" + of(stream.device));
}

// Two blocks for each multiprocessor keep enough loads in flight; a short region needs fewer.
unsigned CudaRuntime::blocks_for(int device, uint64_t size_bytes) {
  std::atomic<int>& known = multiprocessors_[static_cast<std::size_t>(device)];
  if (known.load() == 0) known.store(properties(device).multiprocessors);
  constexpr uint64_t kBlockBytes = uint64_t{16} * device::kBlockThreads;
  const uint64_t wanted = (size_bytes + kBlockBytes - 1) / kBlockBytes;
  return static_cast<unsigned>(std::min<uint64_t>(wanted, 2 * static_cast<uint64_t>(known.load())));
}

void CudaRuntime::reduce(StreamHandle stream, const ReduceLaunch& launch) {
  if (launch.size_bytes == 0) return;
  const void* const kernel = device::reduce_all_kernel(launch.dtype, launch.reduce_op);
  if (kernel == nullptr || launch.sources.empty() || launch.sources.size() > kMostReduced ||
      launch.targets.empty() || launch.targets.size() > kMostReduced) {
    raise(ErrorKind::kInvalidArgument, "there is no kernel for " +
                                           std::string(name_of(launch.reduce_op)) + " of " +
                                           std::string(name_of(launch.dtype)) + " with " +
                                           std::to_string(launch.sources.size()) + " sources");
  }
  device::ReduceArgs args{};
  args.sources.count = static_cast<int>(launch.sources.size());
  args.targets.count = static_cast<int>(launch.targets.size());
  std::copy(launch.sources.begin(), launch.sources.end(), args.sources.at);
  std::copy(launch.targets.begin(), launch.targets.end(), args.targets.at);
  args.size_bytes = launch.size_bytes;
  const void* const divides = launch.factor == 1 ? nullptr : device::divide_kernel(launch.dtype);
  args.factor = divides == nullptr ? launch.factor : 1;
  const bool only_divides = divides != nullptr && launch.sources.size() == 1 &&
                            launch.targets.size() == 1 && launch.sources[0] == launch.targets[0];
  if (!only_divides) start(stream, kernel, args, launch.size_bytes, "a reduction");
  if (divides == nullptr) return;
  for (std::byte* const target : launch.targets) {
    const device::DivideArgs division{target, launch.size_bytes / size_of(launch.dtype),
                                      static_cast<uint64_t>(1 / launch.factor + 0.5)};
    start(stream, divides, division, launch.size_bytes, "a division");
  }
}

[[noreturn]] void refuse_codec(Codec codec) {
  raise(ErrorKind::kInvalidArgument,
        "there is no kernel for codec " + std::string(name_of(codec)) + " on GPUs");
}

void CudaRuntime::encode(StreamHandle stream, const EncodeLaunch& launch) {
  if (launch.count == 0) return;
  const void* const kernel = device::encode_kernel(
      launch.codec, {.feedback = launch.residual != nullptr, .stochastic = launch.key.has_value()});
  if (kernel == nullptr) refuse_codec(launch.codec);
  const device::EncodeArgs args{launch.source, launch.residual, launch.target, launch.count,
                                launch.key.value_or(0)};
  start(stream, kernel, args, launch.count * sizeof(float), "an encoding");
}

void CudaRuntime::decode(StreamHandle stream, const DecodeLaunch& launch) {
  if (launch.count == 0) return;
  const void* const kernel = device::decode_kernel(launch.codec);
  if (kernel == nullptr) refuse_codec(launch.codec);
  device::DecodeArgs args{};
  args.sources.count = 1;
  args.sources.at[0] = launch.source;
  args.plain = launch.adds ? launch.target : nullptr;
  args.plain_at = launch.adds ? 0 : -1;
  args.target = launch.target;
  args.count = launch.count;
  args.factor = launch.factor;
  start(stream, kernel, args, launch.count * sizeof(float), "a decoding");
}

void CudaRuntime::add_residual(StreamHandle stream, const ResidualLaunch& launch) {
  if (launch.count == 0) return;
  const device::ResidualArgs args{launch.values, launch.residual, launch.count};
  start(stream, device::residual_kernel(), args, launch.count * sizeof(float), "an addition");
}

void require_kernel(const void* kernel) {
  if (kernel != nullptr) return;
  raise(ErrorKind::kInvalidArgument, "there is no such kernel for GPUs");
}

// cudaLaunchKernel() copies the parameter, whose size it knows from the kernel.
void CudaRuntime::launch(StreamHandle stream, const KernelLaunch& launch) {
  require_kernel(launch.kernel);
  const auto scope = on(stream.device);
  void* parameters[] = {const_cast<std::byte*>(launch.arguments.data())};
  check_cuda(cudaLaunchKernel(launch.kernel, dim3(launch.blocks), dim3(launch.threads), parameters,
                              0, raw(stream)),
             "start a kernel" + of(stream.device));
}

// CUDA loads a kernel at its first use.
void CudaRuntime::load(int device, const void* kernel) {
  require_kernel(kernel);
  const auto scope = on(device);
  cudaFuncAttributes attributes{};
  check_cuda(cudaFuncGetAttributes(&attributes, kernel), "load a kernel" + of(device));
}

FoundRuntime find() noexcept try {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    static_cast<void>(cudaGetLastError());
    const std::string words = error == cudaSuccess ? "no device" : cudaGetErrorString(error);
    return {nullptr, "no GPU is usable here: CUDA says \"" + words +
                         "\"; nvidia-smi shows which GPUs and which driver there are"};
  }
  // Never destroyed: CUDA may be shut down before static objects are.
  return {new CudaRuntime(count), ""};
} catch (const std::exception& error) {
  return {nullptr, error.what()};
}

}  // namespace

const FoundRuntime& find_cuda_runtime() noexcept {
  static const FoundRuntime kFound = find();
  return kFound;
}

}  // namespace fastgpu
