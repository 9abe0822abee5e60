// A communicator is a group of ranks that call collectives and exchange messages. This class holds
// one rank's part: its channels to the other ranks, and the queues of operations.
//
// Ownership: shared by its users. Callers keep the memory that they pass alive through
// `keep_alive`, which is released when the operation ends. Threading: any thread may call.
// Collectives start in the order of the calls, which must be the same on every rank; messages match
// by peer and tag, beside the collectives.
//
// After a failure (engine/failure_latch.h): every pending operation has failed once, every later
// call raises the same failure, and the buffers of the failed operations are unspecified. The
// latch's handler refers to the communicator; shutdown() closes the latch, so that the handler
// never runs once the communicator is gone.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "comm/calls.h"
#include "comm/options.h"
#include "comm/store.h"
#include "engine/work.h"

namespace fastgpu {

class ChannelSet;
class CollectiveQueue;
class GroupDevice;  // group_device.h
class FailureLatch;
class MessageQueue;
class OperationBuilder;
class Planner;
class PreparedCalls;
class Windows;  // windows.h
class Runtime;  // this process's engine, connector and caches: comm/runtime.h
struct MessageOperation;
struct Operation;
struct Topology;
enum class Submission : uint8_t;

struct CommunicatorConfig {
  int rank = 0;
  int world = 1;
  std::string name;               // of the group, for messages
  std::vector<int> global_ranks;  // by rank: its rank in the default group, for messages; or empty
  Options options;
  int64_t timeout_ms = 30 * 60 * 1000;
  std::string store_host;  // to find the interface that routes there; may be empty
  uint16_t store_port = 0;
};

// Totals since the communicator was made, without the calls that made it.
struct Counters {
  uint64_t operations = 0;
  uint64_t bytes_sent = 0;
  uint64_t bytes_received = 0;
  uint64_t busy_ns = 0;  // time in which at least one operation was pending
};

class Communicator {
 public:
  // Exchanges addresses with the other ranks through the store. Measures the links, unless rank 0's
  // process has done so before. Raises a RendezvousError that names the missing ranks, and
  // OutOfResourcesError if a rank is short of a resource.
  static std::shared_ptr<Communicator> create(const CommunicatorConfig& config, Store& store,
                                              Runtime& runtime);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  // Bad arguments raise InvalidArgumentError and change nothing. A call on a failed communicator
  // raises its failure. Later errors fail the Work.
  std::shared_ptr<Work> run(CollectiveCall call);
  std::shared_ptr<Work> send(MessageCall call);
  std::shared_ptr<Work> recv(MessageCall call);

  // Waits until a work of this communicator is done, and polls the engine meanwhile. If
  // `timeout_ms` passes first, raises CollectiveTimeoutError and leaves the operation pending. If
  // it is negative, only the operation's own time-out ends the wait; that of a message runs from
  // the first such wait on. If the operation failed, raises its failure.
  void wait(Work& work, int64_t timeout_ms);
  // For a caller that does not wait, but is notified when its work is done: a message's time-out
  // runs from now on, and the progress thread is woken, which then runs everything pending.
  void request_progress(Work& work);

  Windows& windows() noexcept { return *windows_; }
  GroupDevice& device() noexcept { return *device_; }

  // Fails everything pending with AbortedError, here and at the peers. Bounded; idempotent.
  void abort(const std::string& reason);
  // Leaves the communicator: peers that still need this rank get PeerLostError with the reason
  // `why`, which completes "rank 3 has left the group: ...". Idempotent. The destructor calls it.
  // With `dials` it also tells peers that have no link: see Connector::detach.
  void shutdown(const std::string& why = "it destroyed its process group", bool dials = false);

  int rank() const { return config_.rank; }
  const Topology& topology() const { return *topology_; }
  int world() const { return config_.world; }
  std::string name_of(int rank) const;  // with host and process id, for messages
  std::string name_of_group() const;    // for messages
  // The user's own description of the group, for messages.
  void set_description(const std::string& description);
  uint64_t id() const;        // random, the same on every rank of the group
  uint64_t sequence() const;  // of the last collective called
  int64_t timeout_ms() const { return timeout_ms_.load(std::memory_order_relaxed); }
  void set_timeout_ms(int64_t timeout_ms) { timeout_ms_.store(timeout_ms); }
  // The time that a call would take, by the cost model (docs/cost.md).
  double predict_us(const CollectiveCall& call) const;
  double predict_us(const MessageCall& call) const;
  Counters counters() const;
  // The first failure; nullptr if there is none. Valid as long as the communicator.
  const Failure* failure() const;

 private:
  Communicator(const CommunicatorConfig& config, Topology topology, Runtime& runtime);

  void join();
  void calibrate();
  bool forked() const noexcept;
  void check_process() const;
  int64_t timeout_ms_of(int64_t given) const { return given < 0 ? timeout_ms() : given; }
  std::shared_ptr<Work> run_inline(CollectiveCall& call);
  std::shared_ptr<Work> run_on_device(CollectiveCall& call);
  bool is_busy() const;
  std::shared_ptr<MessageOperation> make_message(MessageCall& call, bool is_send) const;
  void submit(Work& work, bool synchronous, Submission otherwise);
  void submit_message(Work& work, const MessageCall& call);
  void start_time(Work& work);
  void on_first_failure(Failure& failure);
  void drain();
  Counters all_counters() const;

  const CommunicatorConfig config_;
  const int made_at_fork_;
  std::atomic<bool> is_set_up_{false};
  Counters set_up_;  // the totals of the calls that made the communicator; constant after create()
  Runtime& runtime_;
  const std::unique_ptr<const Topology> topology_;
  const std::unique_ptr<Planner> planner_;
  const std::unique_ptr<const OperationBuilder> builder_;
  const std::unique_ptr<PreparedCalls> prepared_;  // guarded by the engine's progress lock
  std::shared_ptr<FailureLatch> latch_;
  std::shared_ptr<ChannelSet> channels_;
  std::shared_ptr<CollectiveQueue> collectives_;
  std::shared_ptr<MessageQueue> messages_;
  std::unique_ptr<Windows> windows_;
  std::unique_ptr<GroupDevice> device_;
  std::atomic<int64_t> timeout_ms_;
  std::once_flag shut_down_;
  mutable std::mutex description_mutex_;
  std::string description_;  // guarded by description_mutex_
};

}  // namespace fastgpu
