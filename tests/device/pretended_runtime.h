// A DeviceRuntime without a device. Memory is a memfd, which other processes map. A stream is a
// thread with a queue; a seed delays what it does, so that mistakes in the order show. Reductions
// and codecs are those of the CPU. Streams of one device take turns, as kernels that fill it would.
//
// launch() runs device code (pretended_kernels.h) as fibers of the stream's thread, in real time.
// Such a kernel may wait for those of other streams, devices and processes, so it takes no turn.
//
// A segment of this process is mapped where it is already, so that the thread sanitizer sees all
// accesses at one address. Pointers to anything but device and pinned memory are refused.
// Ownership: as in device/runtime.h. Threading: any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <vector>

#include "device/runtime.h"

namespace fastgpu::test {

// A fault of the pretended machine, planted to test the tests.
enum class RuntimeFault : uint8_t {
  kNone,
  kEventsPassEarly,  // an event has always passed
  kWaitsForgotten,   // no stream waits for an event
  kDeviceFails,      // every event reports that the device has failed
  kMapsOther,        // memory of a peer is mapped, but not the memory that was asked for
  kMapsNothing,      // memory of a peer cannot be mapped
};

struct PretendedOptions {
  int devices = 1;
  uint64_t seed = 1;
  int most_delay_us = 30;
  // Memory of a peer is mapped at an address of its own, also within a process.
  bool maps_apart = false;
  // Device k of every runtime and process is the same GPU, so it has the same UUID.
  bool shared_gpu = false;
  // See device::LaneKernels.
  std::size_t staging_bytes = std::size_t{64} << 20;
  RuntimeFault fault = RuntimeFault::kNone;
};

// What KernelLaunch::kernel points to; all threads of all blocks call it.
using PretendedKernel = void (*)(const std::byte* arguments);

std::unique_ptr<DeviceRuntime> make_pretended_runtime(const PretendedOptions& options);

// The copies and reductions that all streams of a runtime were given so far.
struct Traffic {
  uint64_t copies = 0;
  uint64_t reductions = 0;  // launches
  uint64_t bytes = 0;       // read and written

  bool operator==(const Traffic&) const = default;
};
// For pretended runtimes only.
Traffic traffic_of(const DeviceRuntime& runtime);

// For streams of a pretended runtime only. `work` runs in the stream, beside other streams' work,
// and must not throw.
void run_on_host(StreamHandle stream, std::function<void()> work);
// Whether the stream has done everything.
bool is_idle(StreamHandle stream);

// What a stream was given between begin_capture() and end_capture(), in order.
using PretendedGraph = std::vector<std::function<void()>>;
void begin_capture(StreamHandle stream);
PretendedGraph end_capture(StreamHandle stream);
void replay(StreamHandle stream, const PretendedGraph& graph);

// How many kernels were given to streams of the pretended runtime by launch().
uint64_t launches_of(const DeviceRuntime& runtime);

// Kernels beyond the next `count` do nothing, as if the device had died.
void lose_kernels_after(DeviceRuntime& runtime, uint64_t count);

// Keeps a stream from its work until it is opened, at the latest by its destructor.
class Gate {
 public:
  explicit Gate(StreamHandle stream);
  ~Gate() { open(); }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  void open();

 private:
  std::promise<void> opened_;
  bool is_open_ = false;
};

}  // namespace fastgpu::test
