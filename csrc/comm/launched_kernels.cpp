#include "comm/launched_kernels.h"

#include <algorithm>
#include <utility>

namespace fastgpu {

LaunchedKernel LaunchedKernels::take_first() {
  LaunchedKernel first = std::move(kernels_.front());
  kernels_.pop_front();
  return first;
}

// A call that the host drives receives its frames before the queue comes to the next call. So the
// frame at the front of a channel belongs to a kernel's call, or to a later one.
std::optional<Failure> LaunchedKernels::find_mismatch() {
  for (int peer = 0; peer < world_; ++peer) {
    for (int lane = 0; peer != rank_ && lane < lanes_; ++lane) {
      FrameHeader header;
      if (channels_.receiver(peer, lane)->peek(header) != Io::kMoved) continue;
      const LaunchedKernel* const kernel = find(header.sequence);
      if (kernel == nullptr) continue;
      Failure failure = mismatch_of(peer, describe(header.key), rank_, describe(kernel->call));
      failure.op = kernel->op;
      failure.sequence = kernel->sequence;
      return failure;
    }
  }
  return std::nullopt;
}

const LaunchedKernel* LaunchedKernels::find(uint64_t sequence) const {
  const auto found =
      std::ranges::find(kernels_, static_cast<int64_t>(sequence), &LaunchedKernel::sequence);
  return found == kernels_.end() ? nullptr : &*found;
}

}  // namespace fastgpu
