// The seeds of the drawn cases: FASTGPU_TEST_SEEDS='1 2 3', by default 1.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <sstream>
#include <vector>

namespace fastgpu::test {

inline std::vector<uint64_t> seeds() {
  // No test changes the environment. NOLINTNEXTLINE(concurrency-mt-unsafe)
  const char* const given = std::getenv("FASTGPU_TEST_SEEDS");
  std::istringstream text(given == nullptr ? "1" : given);
  std::vector<uint64_t> all;
  for (uint64_t seed = 0; text >> seed;) all.push_back(seed);
  return all;
}

}  // namespace fastgpu::test
