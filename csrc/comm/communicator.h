// A communicator: one membership (rank, world, generation), its channels, and the operations on
// them.
//
// Ownership: shared by its users; operations in flight keep it alive. Callers keep the memory they
// pass alive through `keep_alive` (released when the operation is done).
// Threading: any thread may call; operations start in the order of the calls, which must be the
// same on every rank. Point-to-point operations match by peer and tag, beside the collectives.
// After a failure: every pending operation has failed once, every later call raises the same
// failure, and the buffers of the failed operations are unspecified.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/call.h"
#include "comm/options.h"
#include "comm/store.h"
#include "engine/work.h"

namespace fastgpu {

class Runtime;  // this process's engine, connector and caches: comm/process.h

// Buffers, counts in elements, as PlanRequest has them (plan/build.h).
struct CollectiveCall {
  Collective collective = Collective::kBarrier;
  DType dtype = DType::kUInt8;
  ReduceOp reduce_op = ReduceOp::kSum;
  double premul_factor = 1.0;  // of PREMUL_SUM
  int root = -1;               // where the collective has one
  uint64_t count = 0;
  const std::byte* input = nullptr;
  std::byte* data = nullptr;
  std::vector<uint64_t> send_counts;  // all_to_all
  std::vector<uint64_t> recv_counts;  // all_to_all
  int64_t timeout_ms = -1;            // negative: the communicator's
  bool synchronous = true;  // the caller waits at once: it runs the operation itself if it can
  // Runs before the operation reads anything / after it wrote everything, on whatever thread runs
  // it; for packing and unpacking. Must not block, nor call into the communicator.
  std::function<void()> prologue;
  std::function<void()> epilogue;
  std::shared_ptr<void> keep_alive;
};

inline constexpr int kAnySource = -1;

struct MessageCall {
  int peer = kAnySource;  // kAnySource only for receives
  uint32_t tag = 0;
  std::byte* data = nullptr;  // not written by a send
  uint64_t size_bytes = 0;    // must be the same on both sides
  int64_t timeout_ms = -1;
  bool synchronous = true;
  std::function<void()> epilogue;
  std::shared_ptr<void> keep_alive;
};

struct CommunicatorConfig {
  int rank = 0;
  int world = 1;
  std::string name;  // of the group, for messages
  Options options;
  int64_t timeout_ms = 30 * 60 * 1000;
  std::string store_host;  // to find the interface that routes there; may be empty
  uint16_t store_port = 0;
};

// What went through a communicator since it was made.
struct Counters {
  uint64_t operations = 0;
  uint64_t bytes_sent = 0;
  uint64_t bytes_received = 0;
  uint64_t busy_ns = 0;  // time in which at least one operation was pending
};

class Communicator {
 public:
  // Meets the other ranks at the store. Raises RendezvousError naming the ranks that did not come.
  static std::shared_ptr<Communicator> create(const CommunicatorConfig& config, Store& store,
                                              Runtime& runtime);
  virtual ~Communicator() = default;

  // Bad arguments raise InvalidArgumentError and change nothing. Everything else is in the Work.
  virtual std::shared_ptr<Work> run(CollectiveCall call) = 0;
  virtual std::shared_ptr<Work> send(MessageCall call) = 0;
  virtual std::shared_ptr<Work> recv(MessageCall call) = 0;

  // Waits for a work of this communicator, helping. Raises CollectiveTimeoutError when `timeout_ms`
  // (negative: none of its own) passes first, leaving the operation pending; else what it failed
  // with.
  virtual void wait(Work& work, int64_t timeout_ms) = 0;

  // Has the background see to all that is pending, at once: for somebody who will hear of a work's
  // end, but does not wait for it. (Small works are otherwise left to a waiter for a while.)
  virtual void request_progress() = 0;

  // Fails everything pending with AbortedError, here and at the peers. Bounded; idempotent.
  virtual void abort(const std::string& reason) = 0;
  // Leaves: peers that still need this rank get PeerLostError. Idempotent; also when destroyed.
  virtual void shutdown() = 0;

  virtual int rank() const = 0;
  virtual int world() const = 0;
  virtual const std::string& host_of(int rank) const = 0;  // host name, for messages
  virtual uint64_t sequence() const = 0;                   // of the last collective started
  virtual void set_timeout_ms(int64_t timeout_ms) = 0;
  virtual Counters counters() const = 0;
  // The first failure, if there was one.
  virtual std::shared_ptr<const Failure> failure() const = 0;
};

}  // namespace fastgpu
