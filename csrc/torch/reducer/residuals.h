// The residuals of a model's parameters: the part of their gradients that encoding has lost so far,
// in the units of the result.
//
// A bucket has one array of residuals, in float32 or 8 bits, in the order of its gradients. New
// buckets get new arrays, which rounds residuals of 8 bits once more.
//
// Ownership: owns all memory; join() hands out views. Threading: one thread at a time, and none
// while an operation uses a view.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "codec/residual.h"

namespace fastgpu {

class Residuals {
 public:
  using Indices = std::vector<std::size_t>;

  // The memory of a bucket's residual.
  struct Store {
    at::Tensor values;  // float32, or int8 codes with
    at::Tensor scales;  // bfloat16, one per block; else undefined

    Residual view() const;
    uint64_t size_bytes() const {
      return values.nbytes() + (scales.defined() ? scales.nbytes() : 0);
    }
  };
  using StorePtr = std::shared_ptr<Store>;

  explicit Residuals(std::size_t parameters) : places_(parameters), before_(parameters) {}

  // The residuals of a bucket's parameters, with these numbers of elements, next to each other. A
  // parameter without one starts from zero.
  // On the gradients' device; 8 bits are for the CPU.
  StorePtr join(const Indices& parameters, const std::vector<std::size_t>& lengths, bool in_8_bits,
                at::Device device);

  // In float32, flat, a copy; undefined if there is none.
  at::Tensor get(std::size_t parameter) const;
  // On the CPU and in float32 until join(), so that values from get() become the same 8 bits in the
  // same bucket.
  // undo() does not reach back before it.
  void set(std::size_t parameter, const at::Tensor& values);
  // Removes the residual and returns it as get() does. With `remember`, undo() brings it back.
  at::Tensor take(std::size_t parameter, bool remember);
  void scale(double factor);

  // Remembers the residuals of these parameters, which are a whole bucket. undo() restores them;
  // forget() drops what was remembered.
  void remember(const Indices& parameters);
  void undo();
  void forget();

 private:
  struct Place {
    StorePtr store;  // nullptr: no residual
    int64_t first = 0;
    int64_t count = 0;
  };

  bool joined(const Indices& parameters, bool in_8_bits, at::Device device) const;

  std::vector<Place> places_;  // by parameter
  std::vector<Place> before_;  // remembered
};

}  // namespace fastgpu
