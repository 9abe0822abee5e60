// The ranks of a group on one GPU, with the memory that lanes or small all_reduces need.
//
// Threading: one thread.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "device/lane_case.h"
#include "device/small_case.h"
#include "engine/device/lane.h"
#include "engine/device/small.h"
#include "gpu.h"

namespace fastgpu::test {

// The words and the record of every rank's failure, and what ends a wait.
class GpuGroup {
 public:
  explicit GpuGroup(int world);
  device::Group of(int rank) const;
  std::vector<device::Control> controls() const;
  void set_patience(uint64_t nanoseconds) { patience_ = nanoseconds; }
  PinnedWord& host_word() { return host_word_; }

 private:
  // Under compute-sanitizer a kernel may take this long.
  uint64_t patience_ = 20'000'000'000;
  PinnedWord host_word_;
  PinnedWord ended_;
  std::vector<GpuMemory> controls_;  // by rank
};

class GpuLanes {
 public:
  GpuLanes(const LaneCase& lane_case, const std::vector<Schedule>& schedules,
           const std::array<std::size_t, 3>& sizes);

  device::LaneArgs args(int rank, uint64_t key) const;
  // The arguments of these ranks for launch_ranks().
  GpuMemory args_of(std::span<const int> ranks, uint64_t key) const;
  // Every rank's input and data before operation `turn`.
  void fill(int turn) const;
  // Every rank's data, when all that was launched has ended.
  Results results() const;
  GpuGroup& group() { return group_; }
  unsigned lanes() const { return lanes_; }

 private:
  const LaneCase& case_;
  const std::vector<Schedule>& schedules_;
  unsigned lanes_;
  GpuGroup group_;
  std::vector<std::vector<GpuMemory>> buffers_;   // by rank
  std::vector<std::vector<uint64_t>> locations_;  // of the buffers, by rank
  std::vector<GpuMemory> segments_;               // by rank
  std::vector<GpuMemory> entries_;
  std::vector<GpuMemory> first_;
  std::vector<GpuMemory> mail_;
  std::vector<GpuMemory> operations_;
};

class GpuSmall {
 public:
  static constexpr uint32_t kCapacity = 16384;  // words
  static constexpr unsigned kThreads = 512;
  static unsigned blocks_of(uint64_t size_bytes);

  explicit GpuSmall(const SmallCase& small_case);
  device::SmallArgs args(int rank, const GpuMemory& data, uint64_t key) const;
  GpuGroup& group() { return group_; }

 private:
  const SmallCase& case_;
  GpuGroup group_;
  std::vector<GpuMemory> slots_;  // by rank
  std::vector<GpuMemory> cleared_;
  std::vector<GpuMemory> operations_;
};

// All ranks of a group: 0, 1, ...
std::vector<int> all_ranks(int world);

}  // namespace fastgpu::test
