// Copies past the caches: every byte arrives, wherever source and target begin, and no other.
#include <cstdint>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/copy.h"

namespace fastgpu {
namespace {

constexpr std::size_t kGuard = 64;

std::vector<std::byte> numbered(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 37 + i / 256 + 1);
  return bytes;
}

void check_copy(std::size_t target_at, std::size_t source_at, std::size_t size) {
  const std::vector<std::byte> source = numbered(source_at + size);
  std::vector<std::byte> target(kGuard + target_at + size + kGuard);
  std::vector<std::byte> expected = target;
  const std::size_t first = kGuard + target_at;
  for (std::size_t i = 0; i < size; ++i) expected[first + i] = source[source_at + i];
  copy_streaming(target.data() + first, source.data() + source_at, size);
  if (target != expected) {
    test::fail(__FILE__, __LINE__,
               std::to_string(size) + " bytes from offset " + std::to_string(source_at) + " to " +
                   std::to_string(target_at) + " differ");
  }
}

}  // namespace

TEST(streamed_copies_are_copies_from_and_to_anywhere) {
  for (std::size_t target_at = 0; target_at < 64; ++target_at) {
    for (const std::size_t source_at : {0, 1, 8, 63}) {
      for (const std::size_t size : {0, 1, 15, 63, 64, 65, 127, 128, 130, 300, 5000})
        check_copy(target_at, source_at, size);
    }
  }
  for (std::size_t size = 0; size < 400; ++size) check_copy(size % 7, size % 5, size);
}

TEST(streamed_copies_of_nothing_need_no_memory) { copy_streaming(nullptr, nullptr, 0); }

TEST(the_caches_hold_something) { CHECK(cache_bytes() >= std::size_t{64} << 10); }

}  // namespace fastgpu
