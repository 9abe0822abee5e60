#include "transport/channel.h"

#include <algorithm>
#include <cstring>

#include "kernels/reduce.h"

namespace fastgpu {

void Sink::take(std::byte* target, const std::byte* source, std::size_t size_bytes) const {
  if (size_bytes == 0) return;  // an empty frame may have no memory at all
  if (reduce != nullptr && factor != 1) {
    reduce_and_scale(target, source, size_bytes, nullptr);
  } else if (reduce != nullptr) {
    reduce(target, source, size_bytes / element_size);
  } else if (store != nullptr) {
    store(target, source, size_bytes);
  } else {
    std::memcpy(target, source, size_bytes);
  }
}

void Sink::take_both(std::byte* target, std::byte* source, std::size_t size_bytes) const {
  if (factor != 1) return reduce_and_scale(target, source, size_bytes, source);
  reduce_both(target, source, size_bytes / element_size);
}

// Piece by piece, so that the second loop, and the copy, find a piece in the L1 cache.
void Sink::reduce_and_scale(std::byte* target, const std::byte* source, std::size_t size_bytes,
                            std::byte* copy) const {
  constexpr std::size_t kPieceBytes = std::size_t{8} << 10;  // whole elements of every dtype
  for (std::size_t at = 0; at < size_bytes; at += kPieceBytes) {
    const std::size_t piece = std::min(kPieceBytes, size_bytes - at);
    const std::size_t count = piece / element_size;
    reduce(target + at, source + at, count);
    scale(target + at, count, dtype, factor);
    if (copy != nullptr) std::memcpy(copy + at, target + at, piece);
  }
}

}  // namespace fastgpu
