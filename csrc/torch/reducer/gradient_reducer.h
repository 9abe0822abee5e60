// Reduces the gradient buckets of fastgpu_comm.DistributedDataParallel. torch's c10d::Reducer fills
// the buckets, and calls this class, its communication hook, when a bucket is full. The hook starts
// the all_reduce, in the bucket's own memory, and returns.
//
// A parameter may have a codec, and a residual: the part of its gradients that encoding has lost so
// far, in the units of the result. The next all_reduce adds it, encoded or not.
//
// A parameter is identified by its index in the Reducer, whose buckets list these indices. Two
// calls of GradBucket are unreliable (torch 2.13). After buckets were rebuilt twice,
// getParameters() lists the parameters of an earlier bucket. In the first pass of a static graph,
// getIndex() is 0 for every bucket.
//
// Ownership: the Reducer's hook and Python share it. Threading: the Reducer calls reduce() on a
// thread that runs backward, with its lock held. Everything else is called while no backward pass
// runs.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <torch/csrc/distributed/c10d/reducer.hpp>
#include <vector>

#include "base/codec.h"
#include "torch/backend/backend.h"
#include "torch/reducer/residuals.h"

namespace fastgpu {

class GradientReducer : public std::enable_shared_from_this<GradientReducer> {
 public:
  using BackendPtr = c10::intrusive_ptr<TorchBackend>;
  using Indices = std::vector<std::size_t>;

  struct Encoding {
    Codec codec = Codec::kNone;
    int residual_bits = 0;         // of an element's residual: 32, 8, or 0 for none
    std::optional<uint64_t> seed;  // of stochastic rounding; else to nearest
    bool operator==(const Encoding&) const = default;
  };
  // The result of a reduction:
  enum class Weighting : uint8_t {
    kNone,  // the mean over the ranks, as without a hook
    kMean,  // the sum of weight * gradient, divided by the sum of the weights
    kSum,   // the sum of the gradients, divided by the sum of the weights
  };

  // `encodings` has one entry per parameter of the Reducer. Codecs are for float32; topk, 1bit and
  // residuals of 8 bits are for the CPU.
  // A residual needs a codec. All parameters of a bucket must have the same encoding: see
  // split_buckets().
  GradientReducer(BackendPtr backend, std::vector<Encoding> encodings, Weighting weighting);

  // Registers the hook. Raises c10::Error if the Reducer has one.
  void attach(c10d::Reducer& reducer);
  // For another group. Drops the weights and the minimum that are being reduced over the old one.
  void set_backend(BackendPtr backend);
  // Encodes by `encodings` from the next backward pass on; the buckets must fit them. The residual
  // of a parameter that has no feedback any more is added to the parameter's next gradient.
  void set_encodings(std::vector<Encoding> encodings) { encodings_ = std::move(encodings); }

  // The parameters of each bucket, in the order of their gradients in its memory.
  static std::vector<Indices> buckets_of(const c10d::Reducer& reducer);
  // The parameters of the bucket that a hook is called with.
  static Indices parameters_of(const c10d::Reducer& reducer, const c10d::GradBucket& bucket);
  // Sets the buckets; every parameter must be in exactly one. torch then does not rebuild them. If
  // the buckets change later, GradBucket::getParameters() is wrong in other hooks.
  static void set_buckets(c10d::Reducer& reducer, const std::vector<Indices>& buckets);
  // Splits the buckets that hold parameters of different encodings; returns whether there were any.
  // All ranks must do it at the same step, between a backward pass and the next forward.
  bool split_buckets(c10d::Reducer& reducer) const;

  // Starts the all_reduce of the ranks' weights for the next backward pass. The weights of several
  // calls before one backward pass add up.
  void announce_weight(double weight);
  // Numbers the next backward pass. With the seed, the rank and the bucket it decides the random
  // bits of stochastic rounding.
  void set_step(uint64_t step) { step_ = step; }

  // Takes the minimum of `values` over the ranks, for each element, while the next backward pass
  // runs. All ranks must call it before the same pass. take_least() returns the result after that
  // pass, once; undefined if there is none.
  void least_of(at::Tensor values) { least_ = std::move(values); }
  at::Tensor take_least();

  // The flat residual, in the order of the parameter's memory; undefined if there is none.
  at::Tensor residual(std::size_t parameter) const { return residuals_.get(parameter); }
  void set_residual(std::size_t parameter, const at::Tensor& residual);
  void scale_residuals(double factor) { residuals_.scale(factor); }
  // Whether to copy each residual before a backward pass changes it. undo() then restores the
  // residuals to their state before the last backward pass.
  void keep_copies(bool keep) { keeps_copies_ = keep; }
  void undo() { residuals_.undo(); }
  // For a step that fails before its backward pass, and before a state is loaded: drops the weights
  // announced so far. undo() does not reach back before it.
  void abandon_step();

  struct BucketStats {
    Indices parameters;
    std::string codec;
    uint64_t size_bytes = 0;
    uint64_t encoded_bytes = 0;
    uint64_t residual_bytes = 0;
    int64_t launched_ns = 0;  // since the first bucket of the pass
    int64_t done_ns = 0;      // likewise; 0 until the all_reduce is done
    int64_t codec_ns = 0;     // see Work::codec_ns
  };
  // The buckets of the last backward pass, except those with sparse gradients.
  std::vector<BucketStats> stats() const;
  // The number of backward passes that reduced gradients.
  int64_t passes() const { return passes_; }
  // The time from the end of the forward pass to the first bucket, in the last backward pass.
  int64_t lead_ns() const;

 private:
  class Hook;
  struct Pass;  // the measurements of one backward pass

  c10::intrusive_ptr<c10::ivalue::Future> reduce(const c10d::Reducer& reducer,
                                                 c10d::GradBucket& bucket);
  c10::intrusive_ptr<c10::ivalue::Future> reduce_sparse(const at::Tensor& gradient, double factor);
  void begin_pass(const c10d::Reducer& reducer);
  double factor(int divisor);
  uint64_t random_key(uint64_t seed, std::size_t first_parameter) const;
  void deliver_residuals(const at::Tensor& gradients, const Indices& parameters,
                         const std::vector<std::size_t>& lengths, double factor);
  void record(std::size_t index, BucketStats stats, TorchWork& work);

  BackendPtr backend_;
  std::vector<Encoding> encodings_;
  const Weighting weighting_;

  struct Announced {
    double weight;
    at::Tensor sum;
    c10::intrusive_ptr<c10d::Work> work;
  };
  std::vector<Announced> announced_;
  std::optional<double> factor_;  // from the weights, for the rest of the backward pass

  Residuals residuals_;
  bool keeps_copies_ = false;
  uint64_t step_ = 0;
  at::Tensor least_;
  c10::intrusive_ptr<c10d::Work> least_work_;
  std::shared_ptr<Pass> pass_;
  int64_t passes_ = 0;
};

}  // namespace fastgpu
