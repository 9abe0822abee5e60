#include "transport/channel.h"

#include <cstring>

namespace fastgpu {

void Incoming::take(const std::byte* source, std::size_t size) {
  std::byte* at = target + received_bytes;
  if (reduce != nullptr) {
    reduce(at, source, size / element_size);
  } else {
    std::memcpy(at, source, size);
  }
  received_bytes += size;
  done = received_bytes == size_bytes;
}

}  // namespace fastgpu
