#include "transport/channel.h"

#include <cstring>

namespace fastgpu {

void Sink::take(std::byte* target, const std::byte* source, std::size_t size_bytes) const {
  if (size_bytes == 0) return;  // an empty frame may have no memory at all
  if (reduce != nullptr) {
    reduce(target, source, size_bytes / element_size);
  } else if (store != nullptr) {
    store(target, source, size_bytes);
  } else {
    std::memcpy(target, source, size_bytes);
  }
}

void Sink::take_both(std::byte* target, std::byte* source, std::size_t size_bytes) const {
  reduce_both(target, source, size_bytes / element_size);
}

}  // namespace fastgpu
