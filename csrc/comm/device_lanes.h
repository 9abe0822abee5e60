// Collectives that kernels carry out without the host: lanes and the small all_reduce
// (docs/cuda.md).
//
// It needs 2 to 8 ranks on one host, one GPU for each rank, and access to the memory of peers.
// set_up() checks that, and tries the kernels. If they do not work, the host drives every call.
// Peers read a tensor in place if their kernels know its segment of the heap. Every other tensor
// passes through staging memory.
//
// Ownership: the arguments of the constructor outlive it.
// Threading: plan(), make() and capture() on any thread; set_up() on a caller's, once.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "comm/calls.h"
#include "comm/device_tuner.h"
#include "comm/kernel_watch.h"
#include "comm/lane_launcher.h"
#include "comm/lane_memory.h"
#include "comm/lane_plans.h"
#include "comm/mapped_peers.h"
#include "engine/failure_latch.h"
#include "engine/operation.h"

namespace fastgpu {

struct DeviceParts;

class DeviceLanes {
 public:
  // `channels` are those of device memory.
  DeviceLanes(const DeviceParts& parts, int device, MappedPeers& peers, DeviceExecutor& executor,
              ChannelSource& channels);

  // A collective call, after MappedPeers::set_up().
  void set_up(Communicator& communicator);
  // nullptr if the host should drive the call, as planned by `by_host`; the same on every rank.
  const LanePlan* plan(const CollectiveCall& call, Planner& by_host);
  // Whether FASTGPU_GPU_ENGINE=lanes may give the call, which has no plan, to a kernel.
  bool may_be_forced(const CollectiveCall& call) const;
  // An operation that launches the plan's kernel when all earlier operations are enqueued. Moves
  // the hooks out of the call.
  std::shared_ptr<Operation> make(CollectiveCall& call, const LanePlan& plan);
  // Launches the plan's kernels in the call's stream, which a graph captures.
  void capture(const CollectiveCall& call, const LanePlan& plan);
  KernelWatch& watch() noexcept { return watch_; }
  const KernelWatch& watch() const noexcept { return watch_; }

 private:
  struct PeerSetup;  // a rank's part of the exchange: device_lanes.cpp

  bool may_serve() const;
  PeerSetup prepare();
  LaneLaunch launch_of(const CollectiveCall& call, const LanePlan& plan, uint32_t end) const;

  Runtime& runtime_;
  const Topology& topology_;
  const Options& options_;
  const int device_;
  const int rank_;
  const int world_;
  const device::LaneKernels kernels_;
  MappedPeers& peers_;
  DeviceExecutor& executor_;
  const std::shared_ptr<FailureLatch> latch_;
  const std::shared_ptr<const Schedule> no_steps_;
  // Fixed by set_up(); empty if the kernels cannot be used.
  std::unique_ptr<LaneMemory> memory_;
  std::unique_ptr<LanePlans> plans_;
  std::unique_ptr<LaneLauncher> launcher_;
  std::atomic<bool> is_set_up_{false};  // the kernels can be used

  KernelWatch watch_;
};

}  // namespace fastgpu
