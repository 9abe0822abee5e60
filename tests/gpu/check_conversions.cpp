// The GPU's conversions of every float and every code, against those of the CPU.
#include <algorithm>
#include <cstdio>
#include <limits>
#include <span>
#include <thread>
#include <vector>

#include "checks.h"
#include "conversions.h"
#include "gpu.h"
#include "kernels/short_float.h"

namespace fastgpu::test {
namespace {

constexpr WrongCodes kNone{0, std::numeric_limits<unsigned long long>::max()};

std::string hex(uint64_t value) {
  char text[20];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

WrongCodes read(const GpuMemory& memory) {
  WrongCodes wrong{};
  memory.download(&wrong, sizeof wrong);
  return wrong;
}

// The codes of the floats with the bits first, first + 1, ..., with all processors.
template <typename Format>
void narrow_on_cpu(uint64_t first, std::span<uint16_t> codes) {
  const std::size_t parts = std::max(1u, std::thread::hardware_concurrency());
  const std::size_t part = (codes.size() + parts - 1) / parts;
  std::vector<std::jthread> threads;
  for (std::size_t begin = 0; begin < codes.size(); begin += part) {
    const std::size_t end = std::min(begin + part, codes.size());
    threads.emplace_back([=] {
      for (std::size_t i = begin; i < end; ++i) {
        codes[i] = narrow<Format>(float_of(static_cast<uint32_t>(first + i)));
      }
    });
  }
}

template <typename Format>
void check_narrow(Lines& lines, const std::string& what) {
  constexpr uint64_t kAll = uint64_t{1} << 32;
  constexpr uint64_t kChunk = uint64_t{1} << 26;
  std::vector<uint16_t> codes(kChunk);
  const GpuMemory expected(kChunk * sizeof(uint16_t));
  const GpuMemory wrong = copy_to_gpu(std::span(&kNone, 1));
  for (uint64_t first = 0; first < kAll; first += kChunk) {
    narrow_on_cpu<Format>(first, codes);
    expected.upload(codes.data(), kChunk * sizeof(uint16_t));
    launch_narrow<Format>({first, kChunk, expected.as<uint16_t>(), wrong.as<WrongCodes>()});
  }
  const WrongCodes found = read(wrong);
  if (found.count == 0) return lines.passed(what, std::to_string(kAll) + " floats, in both halves");
  const auto input = static_cast<uint32_t>(found.first >> 32);
  lines.failed(what, std::to_string(found.count) + " wrong; the first: the pair of " + hex(input) +
                         " and 1.0 is " + hex(found.first & 0xffffffff) + ", expected the code " +
                         hex(narrow<Format>(float_of(input))));
}

template <typename Format>
void check_widen(Lines& lines, const std::string& what) {
  constexpr uint32_t kAll = 1 << 16;
  std::vector<uint32_t> floats(kAll);
  for (uint32_t code = 0; code < kAll; ++code) {
    floats[code] = bits_of(widen<Format>(static_cast<uint16_t>(code)));
  }
  const GpuMemory expected = copy_to_gpu(std::span<const uint32_t>(floats));
  const GpuMemory wrong = copy_to_gpu(std::span(&kNone, 1));
  launch_widen<Format>(expected.as<uint32_t>(), wrong.as<WrongCodes>());
  const WrongCodes found = read(wrong);
  if (found.count == 0) return lines.passed(what, std::to_string(kAll) + " codes, in both halves");
  const auto code = static_cast<std::size_t>(found.first >> 32);
  lines.failed(what, std::to_string(found.count) + " wrong; the first: code " + hex(code) + " is " +
                         hex(found.first & 0xffffffff) + ", expected " + hex(floats[code]));
}

}  // namespace

void check_conversions(Lines& lines, const CheckOptions&) {
  check_widen<BFloat16>(lines, "bfloat16 to float32");
  check_widen<Float16>(lines, "float16 to float32");
  check_narrow<BFloat16>(lines, "float32 to bfloat16");
  check_narrow<Float16>(lines, "float32 to float16");
}

}  // namespace fastgpu::test
