// Program: the schedules of all ranks in compact form, because a ring of 4096 ranks has 67 million
// steps. A step is an index into the few distinct steps of its lane, and channels are numbered.
//
// Ownership: values of one Simulation. Threading: one thread.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "plan/schedule.h"

namespace fastgpu::simulated {

struct CompactStep {
  Verb verb = Verb::kSend;
  bool reduce = false;
  uint32_t channel = 0;  // of a send or receive
  uint64_t size_bytes = 0;

  bool operator==(const CompactStep&) const = default;
};

struct CompactLane {
  int rank = 0;
  std::vector<CompactStep> distinct;
  std::vector<uint32_t> order;  // indices into `distinct`

  const CompactStep& operator[](std::size_t step) const { return distinct[order[step]]; }
  std::size_t size() const { return order.size(); }
};

struct ChannelEnds {
  int from = 0;
  int to = 0;
};

class Program {
 public:
  void add(int rank, const Schedule& schedule);

  const std::vector<CompactLane>& lanes() const { return lanes_; }
  const std::vector<ChannelEnds>& channels() const { return channels_; }

 private:
  CompactLane compact(int rank, uint32_t lane, const Lane& steps);
  uint32_t channel(int from, int to, uint32_t lane);

  std::vector<CompactLane> lanes_;
  std::vector<ChannelEnds> channels_;
  std::unordered_map<uint64_t, uint32_t> channel_numbers_;
};

}  // namespace fastgpu::simulated
