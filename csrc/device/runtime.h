// The library's interface to GPUs: memory that peers can map, streams, events, copies, and launches
// of kernels. Host code calls nothing else of a GPU. CUDA implements the interface
// (cuda_runtime.h), and in tests a pretended machine does.
//
// Words: a *stream* runs what it is given in order, later than the call. An *event* is recorded in
// a stream, and has passed once the stream has done everything that it was given before the record.
//
// Errors: every call raises a CommError that says what was asked, in the runtime's own words what
// went wrong, and what to do. A device reports the failure of earlier work in a later call.
// Ownership: the caller frees what a call makes, and the runtime outlives it. Threading: all calls,
// any thread; none of them changes the calling thread's current device. A forked child cannot use
// its parent's runtime.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/codec.h"
#include "base/dtype.h"
#include "base/unique_fd.h"

namespace fastgpu {

struct DeviceProperties {
  std::array<uint8_t, 16> uuid{};  // the same in every process that uses the GPU
  std::string name;
  uint64_t memory_bytes = 0;
  int multiprocessors = 0;
  int compute_major = 0;
  int compute_minor = 0;
};

struct StreamHandle {
  void* raw = nullptr;  // the runtime's own; nullptr is a stream, too: the default one
  int device = 0;
};

struct EventHandle {
  void* raw = nullptr;
  int device = 0;
};

// Memory of a device that peers on this host can map.
struct DeviceSegment {
  std::byte* base = nullptr;
  std::size_t size_bytes = 0;  // may be more than was asked for
  int device = 0;
};

// A segment as a peer gets it. The descriptor alone keeps no memory alive under every runtime, so
// the owner frees a segment only after the peers have unmapped it.
struct SharedSegment {
  UniqueFd fd;
  std::size_t size_bytes = 0;
};

// At most this many sources, and as many targets, of one reduction.
inline constexpr std::size_t kMostReduced = 8;

// Whether GPUs have kernels for the codec.
inline bool has_device_codec(Codec codec) {
  return codec == Codec::kFloat16 || codec == Codec::kBFloat16 || codec == Codec::kInt8 ||
         codec == Codec::kInt4;
}

// targets = (sources[0] op sources[1] op ...) * factor, rounded after every operation, like a chain
// of receives on the CPU. With one source it multiplies, or copies. Sources are memory that the
// device can read: its own, mapped or pinned. A source may be a target; else regions do not
// overlap. All are aligned to the element size. The operation of AVG and PREMUL_SUM is the sum.
struct ReduceLaunch {
  std::span<const std::byte* const> sources;
  std::span<std::byte* const> targets;
  uint64_t size_bytes = 0;
  DType dtype = DType::kFloat32;
  ReduceOp reduce_op = ReduceOp::kSum;
  double factor = 1;  // other than 1 only for sums; 1 / n for integers, as in scale()
};

// target = the encoding of source + residual. The residual becomes what the encoding loses, as with
// CodecKernels::encode_feedback(). Without a residual: the encoding of the source. Arrays do not
// overlap.
struct EncodeLaunch {
  Codec codec = Codec::kNone;
  const float* source = nullptr;
  float* residual = nullptr;
  std::byte* target = nullptr;
  uint64_t count = 0;
  std::optional<uint64_t> key = {};  // of stochastic rounding; else to nearest
};

// target = decoded * factor or, if it adds, (target + decoded) * factor.
struct DecodeLaunch {
  Codec codec = Codec::kNone;
  const std::byte* source = nullptr;
  float* target = nullptr;
  uint64_t count = 0;
  bool adds = false;
  double factor = 1;
};

// Adds the residual to the values, and sets it to 0, as add_residual() of codec/residual.h does.
struct ResidualLaunch {
  float* values = nullptr;
  float* residual = nullptr;
  uint64_t count = 0;
};

// A launch of a kernel with one struct parameter. Its blocks may wait for those of peers.
struct KernelLaunch {
  const void* kernel = nullptr;          // of engine/device/lane_code.h; tests have their own
  std::span<const std::byte> arguments;  // the struct; copied by the call
  unsigned blocks = 1;
  unsigned threads = 32;  // of a block
};

class DeviceRuntime {
 public:
  virtual ~DeviceRuntime() = default;

  virtual int device_count() const = 0;
  virtual DeviceProperties properties(int device) = 0;

  // Not cleared. Raises OutOfResourcesError.
  virtual DeviceSegment allocate(int device, std::size_t size_bytes) = 0;
  // May wait until the device has done all its work.
  virtual void free(const DeviceSegment& segment) noexcept = 0;
  virtual SharedSegment share(const DeviceSegment& segment) = 0;
  // Maps a peer's segment for `device`. The segment may be on any device of this host.
  virtual DeviceSegment map(int device, const SharedSegment& shared) = 0;
  virtual void unmap(const DeviceSegment& mapped) noexcept = 0;

  // Host memory that every device reads and writes directly.
  virtual std::byte* allocate_pinned(std::size_t size_bytes) = 0;
  virtual void free_pinned(std::byte* memory) noexcept = 0;

  // Streams made here do not wait for the default stream.
  virtual StreamHandle make_stream(int device) = 0;
  virtual void destroy(StreamHandle stream) noexcept = 0;
  // Blocks the calling thread until the stream has done everything.
  virtual void synchronize(StreamHandle stream) = 0;
  // Whether the stream's work is being recorded for a graph, and not done.
  virtual bool is_captured(StreamHandle stream) = 0;

  virtual EventHandle make_event(int device) = 0;
  virtual void destroy(EventHandle event) noexcept = 0;
  virtual void record(EventHandle event, StreamHandle stream) = 0;
  // Whether the latest record has passed; true if there is none. If so, the calling thread, and
  // what it gives to any stream from then on, sees everything that came before that record.
  virtual bool passed(EventHandle event) = 0;
  // Work that the stream is given later waits for the latest record. Does not block the caller.
  virtual void wait(StreamHandle stream, EventHandle event) = 0;

  // Between device memory, own or mapped, and pinned memory, in any direction. Regions do not
  // overlap.
  virtual void copy(StreamHandle stream, std::byte* target, const std::byte* source,
                    std::size_t size_bytes) = 0;
  // Raises InvalidArgumentError if there is no kernel for it.
  virtual void reduce(StreamHandle stream, const ReduceLaunch& launch) = 0;
  // Both raise InvalidArgumentError if the codec has no kernel for it.
  virtual void encode(StreamHandle stream, const EncodeLaunch& launch) = 0;
  virtual void decode(StreamHandle stream, const DecodeLaunch& launch) = 0;
  virtual void add_residual(StreamHandle stream, const ResidualLaunch& launch) = 0;
  // Raises InvalidArgumentError if the kernel is nullptr.
  virtual void launch(StreamHandle stream, const KernelLaunch& launch) = 0;
  // Loads the kernel's code, which may need an idle GPU: a kernel that waits for peers keeps it
  // busy. Raises InvalidArgumentError as launch() does.
  virtual void load(int device, const void* kernel) = 0;
};

}  // namespace fastgpu
