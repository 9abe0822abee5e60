#include "kernels/copy.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include "base/cache_lines.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace fastgpu {
namespace {

constexpr std::size_t kUnknownCacheBytes = std::size_t{32} << 20;
// A virtual machine may report the cache of the whole processor, which it shares with other virtual
// machines. Few processors have more last-level cache per CPU than this.
constexpr std::size_t kMostCacheBytesPerCpu = std::size_t{32} << 20;

// Parses a size such as "32768K". Returns 0 if there is none.
std::size_t cache_size(const std::string& folder) {
  std::ifstream file(folder + "size");
  std::size_t size = 0;
  char unit = ' ';
  if (!(file >> size)) return 0;
  file >> unit;
  return unit == 'M' ? size << 20 : unit == 'K' ? size << 10 : size;
}

// The number of CPUs that share the cache, from a mask in hexadecimal digits; 0 if there is none.
std::size_t sharing_cpus(const std::string& folder) {
  std::ifstream file(folder + "shared_cpu_map");
  std::size_t cpus = 0;
  for (char digit = 0; file >> digit;) {
    const bool decimal = digit >= '0' && digit <= '9';
    if (decimal || (digit >= 'a' && digit <= 'f')) {
      cpus += static_cast<std::size_t>(
          std::popcount(static_cast<unsigned>(decimal ? digit - '0' : digit - 'a' + 10)));
    }
  }
  return cpus;
}

std::size_t look_up_cache_bytes() {
  for (const char* level : {"3", "2"}) {
    const std::string folder =
        std::string("/sys/devices/system/cpu/cpu0/cache/index") + level + "/";
    const std::size_t size = cache_size(folder);
    const std::size_t sharing = sharing_cpus(folder);
    if (size == 0 || sharing == 0) continue;
    const std::size_t cpus = std::max<std::size_t>(std::thread::hardware_concurrency(), sharing);
    return std::min(size * (cpus / sharing), kMostCacheBytesPerCpu * cpus);
  }
  return kUnknownCacheBytes;
}

}  // namespace

void copy_streaming(std::byte* target, const std::byte* source, std::size_t size_bytes) {
#if defined(__SSE2__)
  const std::size_t head =
      std::min((0 - reinterpret_cast<std::uintptr_t>(target)) % kLineBytes, size_bytes);
  if (head > 0) std::memcpy(target, source, head);
  std::size_t at = head;
  for (; at + kLineBytes <= size_bytes; at += kLineBytes) {
    const auto* from = reinterpret_cast<const __m128i*>(source + at);
    auto* to = reinterpret_cast<__m128i*>(target + at);
    const __m128i words[4] = {_mm_loadu_si128(from), _mm_loadu_si128(from + 1),
                              _mm_loadu_si128(from + 2), _mm_loadu_si128(from + 3)};
    for (int i = 0; i < 4; ++i) _mm_stream_si128(to + i, words[i]);
  }
  if (at < size_bytes) std::memcpy(target + at, source + at, size_bytes - at);
  _mm_sfence();
#else
  if (size_bytes > 0) std::memcpy(target, source, size_bytes);
#endif
}

std::size_t cache_bytes() {
  static const std::size_t bytes = look_up_cache_bytes();
  return bytes;
}

}  // namespace fastgpu
