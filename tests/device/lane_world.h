// Schedules run as lanes on the pretended machine, against a plain player of the same schedules.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/device/lane.h"
#include "memory.h"
#include "plan/build.h"
#include "plan/proof/verify.h"
#include "simt_machine.h"

namespace fastgpu::test {

// A fault of the engine, planted to test the tests.
struct Planted {
  simt::MachineFault machine = simt::MachineFault::kNone;
  void (*mutate)(device::Table& table) = nullptr;
  bool operation_is_not_counted = false;
};

enum class Alignment : uint8_t { kAligned, kShifted, kByRank };

struct LaneCase {
  PlanRequest request;
  std::vector<int> host_of;          // request.host_of shows it
  std::vector<uint64_t> all_counts;  // of an uneven all_to_all; else empty
  DType dtype = DType::kFloat32;
  ReduceOp reduce_op = ReduceOp::kSum;
  Alignment alignment = Alignment::kAligned;
  int ranks_per_gpu = 1;
  unsigned threads = 32;
  bool slow_stream = false;
  bool fold = true;
  uint64_t seed = 1;
  Planted planted;
};

std::string describe(const LaneCase& lane_case);

// A rank's buffers: input, data, scratch.
struct RankBuffers {
  std::vector<DeviceMemory> memory;

  std::byte* at(const Region& region) const {
    return memory[static_cast<std::size_t>(region.buffer)].data() + region.offset_bytes;
  }
};

// Runs the steps of all ranks one after the other, with payloads copied as they are sent.
void play(const std::vector<Schedule>& schedules, const LaneCase& lane_case,
          std::vector<RankBuffers>& ranks);

// Of an average; else 1.
double factor_of(const LaneCase& lane_case);

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
  void stop_by_host() { host_stop_ = 1; }
  // The failures of all ranks, for messages; "" if there are none.
  std::string failure() const;

 private:
  static std::size_t index(int rank) { return static_cast<std::size_t>(rank); }

  int world_;
  std::size_t lanes_;
  double factor_;
  uint64_t patience_ = 3'000'000;
  uint64_t host_stop_ = 0;
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

// A case with everything drawn from the seed.
LaneCase draw_case(uint64_t seed);

}  // namespace fastgpu::test
