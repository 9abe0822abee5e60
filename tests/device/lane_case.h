// Collectives to run as lanes, and what their results must be: a plain player runs the same
// schedules with the CPU's kernels. The lanes run on the pretended machine (lane_world.h) or on a
// GPU (tests/gpu).
//
// Threading: one thread.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "call_case.h"
#include "engine/device/mail.h"
#include "memory.h"

namespace fastgpu::simt {
enum class MachineFault : uint8_t;
}

namespace fastgpu::test {

inline std::size_t index_of(int rank) { return static_cast<std::size_t>(rank); }

// A fault of the engine, planted to test the tests.
struct Planted {
  simt::MachineFault machine{};  // none
  void (*mutate)(device::Table& table) = nullptr;
  bool operation_is_not_counted = false;
};

enum class Alignment : uint8_t { kAligned, kShifted, kByRank };

struct LaneCase : CallCase {
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

// How far behind a border of 16 bytes a rank's buffers begin, and the sizes of the buffers.
std::size_t shift_of(const LaneCase& lane_case, int rank);
std::array<std::size_t, 3> buffer_bytes(const LaneCase& lane_case, const Schedule& schedule);
RankBuffers make_buffers(const LaneCase& lane_case, const Schedule& schedule, int rank);

// What a rank's input and data hold before operation `turn`.
void fill(const LaneCase& lane_case, const RankBuffers& buffers, int rank, int turn);

// Runs the steps of all ranks one after the other, with payloads copied as they are sent.
void play(const std::vector<Schedule>& schedules, const LaneCase& lane_case,
          std::vector<RankBuffers>& ranks);

// Every rank's data after an operation.
using Results = std::vector<std::vector<std::byte>>;

// The right results of operations 0, 1, ... on the same memory.
std::vector<Results> play_turns(const std::vector<Schedule>& schedules, const LaneCase& lane_case,
                                int turns);
// What differs, with the first wrong bytes; "" if nothing does.
std::string difference(const LaneCase& lane_case, const std::vector<Results>& found,
                       const std::vector<Results>& expected);
// The failures of all ranks, for messages; "" if there are none.
std::string failures_of(std::span<const device::Control> controls);

// Of an average; else 1.
double factor_of(const LaneCase& lane_case);

// A case with everything drawn from the seed.
LaneCase draw_case(uint64_t seed);
// A case of one collective, algorithm and world; the rest is drawn from `number`.
LaneCase case_of(Collective collective, Algorithm algorithm, int world, uint64_t number);

}  // namespace fastgpu::test
