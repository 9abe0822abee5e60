// Machine: a pretended machine with several GPUs, on which tests run the device code of
// kernels/cuda/simt.h. It has streams, events, copies, kernels and a limit of resident blocks.
//
// Everything runs in the thread that calls synchronize(). A seed decides which CUDA thread runs
// next, at every barrier, atomic access and pause; a run repeats exactly from its seed. The thread
// sanitizer sees every CUDA thread, stream and the host as threads that only barriers, released
// words, events and streams order. It therefore finds a race even if the order at hand does not
// show it.
//
// Memory of all GPUs has one address for all ranks, as if it were mapped at the same place. Mapping
// it twice would hide races: the sanitizer compares addresses.
//
// run_kernel() runs one kernel in the calling thread, in real time, beside those of other threads
// and processes, with which it shares memory.
//
// What it cannot show: reordered relaxed accesses, loads that skip coherence, launch limits, the
// GPU's own conversions, and anything that the driver does.
//
// Ownership: the machine owns its streams and events. Threading: a machine is used by one thread,
// which has one machine at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace fastgpu::simt {

struct Stream;
struct Event;
struct MachineState;

// Faults that the machine plants into all device code, to test the tests.
enum class MachineFault : uint8_t {
  kNone,
  kRelaxedRelease,     // a release orders nothing
  kReleaseForOneGpu,   // a release is ordered for threads of its own GPU only
  kRelaxedAcquire,     // an acquire orders nothing
  kSkippedBarriers,    // one of four barriers neither waits nor orders
  kUnorderedBarriers,  // barriers wait, but order nothing
  kShuffleKeepsOwn,    // a shuffle with mask 1 returns the thread's own value
  kEventIsNotAwaited,  // a stream passes its waits at once
};

struct MachineOptions {
  uint64_t seed = 1;
  unsigned resident_blocks = 1u << 20;  // the most that a GPU holds; others wait until one ends
  bool slow_stream = false;             // one stream, drawn from the seed, lags far behind
  MachineFault fault = MachineFault::kNone;
  bool in_real_time = false;  // see run_kernel()
};

struct Grid {
  unsigned blocks = 1;
  unsigned threads = 32;  // of a block
};

// Returns once all threads have ended. Here simt::now() is in nanoseconds, and scopes are not
// modelled. Threads that all pause leave the processor to others.
void run_kernel(Grid grid, uint64_t seed, const std::function<void()>& kernel);

class Machine {
 public:
  explicit Machine(const MachineOptions& options);
  // All streams are empty, unless a check has failed. Then their memory is not freed.
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  Stream* make_stream(int device);
  Event* make_event();

  // Enqueues, in stream order, as CUDA does. Every thread of every block runs the kernel.
  void launch(Stream* stream, Grid grid, std::function<void()> kernel);
  // A copy, a memset or a host function.
  void call(Stream* stream, std::function<void()> function);
  void record(Stream* stream, Event* event);
  // Waits for the latest record so far.
  void wait(Stream* stream, Event* event);

  // Runs until the stream is empty. Ends the process if nothing can move any more.
  void synchronize(Stream* stream);
  // Whether everything that was enqueued before the latest record so far has run.
  bool passed(const Event* event) const;
  // Lets threads and streams take `turns` turns, or until nothing can move.
  void run(uint64_t turns);

  // How often a thread has been given its turn.
  uint64_t turns() const;

 private:
  friend void run_kernel(Grid grid, uint64_t seed, const std::function<void()>& kernel);
  std::unique_ptr<MachineState> state_;
};

}  // namespace fastgpu::simt
