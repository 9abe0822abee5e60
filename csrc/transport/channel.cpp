#include "transport/channel.h"

#include <cstring>

namespace fastgpu {

void Incoming::take(const std::byte* source, std::size_t size) {
  std::byte* at = target + received_bytes;
  if (reduce != nullptr && size > 0) {
    reduce(at, source, size / element_size);
  } else if (copy != nullptr) {
    copy(at, source, size);
  } else if (size > 0) {  // an empty frame may have no memory at all
    std::memcpy(at, source, size);
  }
  received_bytes += size;
  done = received_bytes == size_bytes;
}

void Incoming::take_and_answer(std::byte* source, std::size_t size) {
  reduce_both(target + received_bytes, source, size / element_size);
  answered = true;
  received_bytes += size;
  done = received_bytes == size_bytes;
}

}  // namespace fastgpu
