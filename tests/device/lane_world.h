// Schedules run as lanes on the pretended machine, against a plain player of the same schedules.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/device/lane.h"
#include "lane_case.h"
#include "simt_machine.h"

namespace fastgpu::test {

// The memory that lanes of a group need.
class LaneWorld {
 public:
  LaneWorld(simt::Machine& machine, const LaneCase& lane_case,
            const std::vector<Schedule>& schedules);

  device::LaneArgs args(int rank, uint64_t key) const;
  simt::Stream* stream(int rank) const { return streams_[index(rank)]; }
  const RankBuffers& buffers(int rank) const { return ranks_[index(rank)]; }
  const device::Control& control(int rank) const { return *controls_[index(rank)]; }
  const device::Table& table(int rank) const { return tables_[index(rank)]; }
  uint64_t* operations(int rank) { return operations_[index(rank)].data(); }
  void set_patience(uint64_t turns) { patience_ = turns; }
  void stop_by_host() { host_word_ = device::HostWord::kStopAll; }
  // The failures of all ranks, for messages; "" if there are none.
  std::string failure() const;

 private:
  static std::size_t index(int rank) { return static_cast<std::size_t>(rank); }

  int world_;
  std::size_t lanes_;
  double factor_;
  uint64_t patience_ = 3'000'000;
  uint64_t host_word_ = 0;
  mutable uint64_t ended_ = 0;  // written by kernels
  std::vector<device::Table> tables_;
  std::vector<RankBuffers> ranks_;
  std::vector<std::vector<std::byte*>> segments_;  // by rank
  std::vector<std::vector<uint64_t>> locations_;   // by rank and buffer
  std::vector<std::unique_ptr<device::Mail[]>> mail_;
  std::vector<std::unique_ptr<device::Control>> controls_;
  std::vector<std::vector<uint64_t>> operations_;
  std::vector<simt::Stream*> streams_;
};

inline constexpr uint64_t kFirstOperation = uint64_t{1} << 33;

// Runs two operations of the case on the same memory, without a barrier between them. Returns what
// went wrong, or "".
std::string run_case(const LaneCase& lane_case);

}  // namespace fastgpu::test
