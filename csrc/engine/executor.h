// Copies and reduces for operations whose memory is not the CPU's. Without an executor the engine
// does both itself, at once.
//
// An executor only takes the work on, and does it later, in the order of the calls. So a step of a
// schedule ends when its work is enqueued, and channels that the executor's memory needs are of its
// own kind: they tell a peer of a frame when the work that makes it is done.
// Ownership: it outlives the operations. Threading: the polling thread.
#pragma once

#include <cstddef>

#include "base/dtype.h"
#include "device/runtime.h"

namespace fastgpu {

struct Reduction {
  DType dtype = DType::kFloat32;
  ReduceOp reduce_op = ReduceOp::kSum;
  double factor = 1;  // of the results
  // Whether the lane's next step reduces into the same target (plan/sums.h). If so, nothing else
  // touches the target, or writes the source, before the executor gets that step.
  bool is_continued = false;
};

class Executor {
 public:
  virtual ~Executor() = default;
  virtual void copy(std::byte* target, const std::byte* source, std::size_t size_bytes) = 0;
  // Like copy(), for a step whose next step reduces into the same target: see
  // Reduction::is_continued.
  virtual void start_sum(std::byte* target, const std::byte* source, std::size_t size_bytes) = 0;
  // Like copy(), into scratch that only one later step of the same sum reads.
  virtual void set_aside(std::byte* target, const std::byte* source, std::size_t size_bytes) = 0;
  // target = (target op source) * factor
  virtual void reduce(std::byte* target, const std::byte* source, std::size_t size_bytes,
                      const Reduction& reduction) = 0;
  // target = source * factor; the dtype is a floating-point one. They may be the same memory.
  virtual void scale(std::byte* target, const std::byte* source, std::size_t size_bytes,
                     DType dtype, double factor) = 0;
  virtual void encode(const EncodeLaunch& launch) = 0;
  virtual void decode(const DecodeLaunch& launch) = 0;
  virtual void add_residual(const ResidualLaunch& launch) = 0;
};

}  // namespace fastgpu
