// The communicator's making: what Communicator::create returns.
// Threading and ownership as communicator.h says.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "comm/channel_set.h"
#include "comm/communicator.h"
#include "comm/planner.h"
#include "comm/runtime.h"
#include "comm/topology.h"
#include "engine/collective_queue.h"
#include "engine/messages/message_queue.h"
#include "memory/scratch_pool.h"

namespace fastgpu {

class Group : public Communicator {
 public:
  Group(const CommunicatorConfig& config, const Topology& topology, Runtime& runtime);
  ~Group() override;

  // Measures the links with the other ranks, when rank 0 has not measured them before: a collective
  // call, so every rank makes it first.
  void calibrate();

  std::shared_ptr<Work> run(CollectiveCall call) override;
  std::shared_ptr<Work> send(MessageCall call) override;
  std::shared_ptr<Work> recv(MessageCall call) override;
  void wait(Work& work, int64_t timeout_ms) override;
  void request_progress() override {
    if (!forked()) runtime_.engine().submitted();
  }
  void abort(const std::string& reason) override;
  void shutdown() override;

  int rank() const override { return config_.rank; }
  int world() const override { return config_.world; }
  const std::string& host_of(int rank) const override;
  uint64_t sequence() const override { return collectives_->sequence(); }
  void set_timeout_ms(int64_t timeout_ms) override { timeout_ms_.store(timeout_ms); }
  Counters counters() const override;
  std::shared_ptr<const Failure> failure() const override { return collectives_->failure(); }

 private:
  // What failing needs; it outlives the group while the engine or the connector still calls it.
  struct Shared;

  bool forked() const noexcept { return forks() != made_at_fork_; }
  void check_process() const;
  void check(const CollectiveCall& call) const;
  // What the last call of its kind left for the next one, which then looks nothing up, and, where
  // the last one ran at once for its caller, allocates nothing.
  struct Prepared {
    std::shared_ptr<Operation> operation;  // nullptr: whoever called last still has it
    std::shared_ptr<const Plan> plan;
    DType dtype = DType::kFloat32;
    ReduceOp reduce_op = ReduceOp::kSum;

    bool fits(const CollectiveCall& call) const;
  };
  static constexpr int kPreparedBits = 4;

  static std::size_t slot_of(const CollectiveCall& call) noexcept;
  std::shared_ptr<Work> run_here(CollectiveCall& call);
  void prepare(Prepared& prepared, CollectiveCall& call);
  void fill(Operation& operation, CollectiveCall& call, const Plan& plan);
  void bind(Operation& operation, CollectiveCall& call);
  uint64_t single_copy_from_bytes(Collective collective) const;
  void add_scaling(CollectiveCall& call, Operation& operation);
  std::shared_ptr<MessageOperation> make_message(MessageCall& call, bool is_send) const;
  TimeNs timeout_ns(int64_t timeout_ms) const;
  void drive(Work& work, bool synchronous, bool small);
  void drain();

  const CommunicatorConfig config_;
  const int made_at_fork_ = forks();
  Runtime& runtime_;
  Planner planner_;
  // From here on what the ranks of a machine receive would not stay in its caches.
  const uint64_t least_streamed_bytes_;
  const MachineShare share_;
  const bool uses_single_copy_;  // large payloads where they lie, for their receivers to read
  const std::shared_ptr<Shared> shared_;
  std::shared_ptr<CollectiveQueue> collectives_;
  std::shared_ptr<MessageQueue> messages_;
  std::shared_ptr<ScratchPool> scratch_pool_;
  std::shared_ptr<ScratchPool> shared_scratch_pool_;
  std::array<Prepared, 1 << kPreparedBits> prepared_;  // guarded by the engine's progress lock
  std::atomic<int64_t> timeout_ms_;
  std::atomic<uint64_t> message_bytes_sent_{0};
  std::atomic<uint64_t> message_bytes_received_{0};
  std::once_flag shut_down_;
};

}  // namespace fastgpu
