#include "engine/device/host_driven/held_sum.h"

namespace fastgpu {
namespace {

// The sum of complex numbers, times a factor, is that of twice as many real ones.
DType summed_as(const Reduction& reduction) {
  return reduction.factor == 1 ? reduction.dtype : part_of(reduction.dtype);
}

bool overlap(const std::byte* one, const std::byte* other, std::size_t size_bytes) {
  return one < other + size_bytes && other < one + size_bytes;
}

}  // namespace

void HeldSum::set_aside(std::byte* copy, const std::byte* original, std::size_t size_bytes) {
  aside_ = copy;
  original_ = original;
  size_bytes_ = size_bytes;
}

bool HeldSum::start(std::byte* target, const std::byte* source, std::size_t size_bytes) {
  if (!empty()) {
    if (count_ > 0 || target != original_ || size_bytes != size_bytes_) return false;
    if (overwrites(source)) return false;
  }
  target_ = target;
  size_bytes_ = size_bytes;
  sources_[count_++] = source;
  return true;
}

bool HeldSum::add(std::byte* target, const std::byte* source, std::size_t size_bytes,
                  const Reduction& reduction) {
  if (empty()) {
    target_ = target;
    size_bytes_ = size_bytes;
    sources_[count_++] = target;
  } else {
    if (count_ == 0 || full() || target != target_ || size_bytes != size_bytes_) return false;
    if (count_ > 1 && (reduction.dtype != reduction_.dtype ||
                       reduction.reduce_op != reduction_.reduce_op || reduction_.factor != 1)) {
      return false;
    }
    if (source == aside_) {
      source = original_;
      aside_ = nullptr;
    } else if (overwrites(source)) {
      return false;
    }
  }
  sources_[count_++] = source;
  reduction_ = reduction;
  return true;
}

// Whether the source is memory that this sum will write.
bool HeldSum::overwrites(const std::byte* source) const {
  return overlap(source, count_ > 0 ? target_ : original_, size_bytes_) ||
         (aside_ != nullptr && overlap(source, aside_, size_bytes_));
}

void HeldSum::launch(DeviceRuntime& runtime, StreamHandle stream) const {
  if (aside_ != nullptr) runtime.copy(stream, aside_, original_, size_bytes_);
  if (count_ == 1) runtime.copy(stream, target_, sources_.front(), size_bytes_);
  if (count_ < 2) return;
  launch_reduction(runtime, stream, target_, std::span(sources_).first(count_), size_bytes_,
                   reduction_);
}

void launch_reduction(DeviceRuntime& runtime, StreamHandle stream, std::byte* target,
                      std::span<const std::byte* const> sources, std::size_t size_bytes,
                      const Reduction& reduction) {
  const std::array<std::byte*, 1> targets{target};
  runtime.reduce(stream, {.sources = sources,
                          .targets = targets,
                          .size_bytes = size_bytes,
                          .dtype = summed_as(reduction),
                          .reduce_op = reduction.reduce_op,
                          .factor = reduction.factor});
}

}  // namespace fastgpu
