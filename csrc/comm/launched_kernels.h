// The kernels of a communicator that are launched and not done, in the order of their calls.
//
// If a rank's call is carried out by a kernel, and the call of a peer by the host, the calls do not
// match: the peer's frames wait in a channel, and no kernel takes them.
//
// Ownership: the channels outlive it. Threading: the polling thread.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "base/call.h"
#include "base/clock.h"
#include "base/error.h"
#include "engine/lane_run.h"

namespace fastgpu {

// A kernel that the host watches: the call that it carries out, for errors.
struct LaunchedKernel {
  Call call;
  std::string op;
  int64_t sequence = -1;
  TimeNs timeout_ns = kNever;
  uint32_t end = 0;  // the word that says how the kernel has ended
};

class LaunchedKernels {
 public:
  // `channels` are those of device memory, with so many lanes.
  LaunchedKernels(ChannelSource& channels, int rank, int world, int lanes)
      : channels_(channels), rank_(rank), world_(world), lanes_(lanes) {}

  void add(LaunchedKernel kernel) { kernels_.push_back(std::move(kernel)); }
  // The first kernel is done.
  LaunchedKernel take_first();
  void drop_last() { kernels_.pop_back(); }
  bool empty() const noexcept { return kernels_.empty(); }

  // The failure if a frame has arrived for the call of one of these kernels. Raises the error of a
  // channel.
  std::optional<Failure> find_mismatch();

 private:
  const LaunchedKernel* find(uint64_t sequence) const;

  ChannelSource& channels_;
  const int rank_;
  const int world_;
  const int lanes_;
  std::deque<LaunchedKernel> kernels_;
};

}  // namespace fastgpu
