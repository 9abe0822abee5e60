// all_reduce_small() on the pretended machine, several operations in a row.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/device/small.h"
#include "simt_machine.h"
#include "small_case.h"

namespace fastgpu::test {

class SmallWorld {
 public:
  static constexpr uint32_t kCapacity = 1200;

  SmallWorld(simt::Machine& machine, const SmallCase& small_case);
  device::SmallArgs args(int rank, std::byte* data, uint64_t size_bytes, uint64_t key);
  void launch(int rank, std::byte* data, uint64_t size_bytes, uint64_t key);
  void synchronize();
  const device::Control& control(int rank) const { return *controls_[index(rank)]; }
  uint64_t slot(int rank, std::size_t number) const { return slots_[index(rank)][number]; }
  void set_patience(uint64_t turns) { patience_ = turns; }

 private:
  static std::size_t index(int rank) { return static_cast<std::size_t>(rank); }

  simt::Machine& machine_;
  const SmallCase& case_;
  uint64_t patience_ = 3'000'000;
  uint64_t host_word_ = 0;
  uint64_t ended_ = 0;  // written by kernels
  std::vector<std::vector<uint64_t>> slots_;
  std::vector<std::vector<uint64_t>> cleared_;
  std::vector<std::vector<uint64_t>> operations_;
  std::vector<std::unique_ptr<device::Control>> controls_;
  std::vector<simt::Stream*> streams_;
};

// Runs all operations of the case without a barrier between them. Returns what went wrong, or "".
std::string run_small(const SmallCase& small_case);

}  // namespace fastgpu::test
