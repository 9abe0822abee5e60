// Which algorithm a call uses: the cheapest by the closed forms of cost.h.
//
// Thread safety: a pure function. Ranks that pass equal values get equal choices, so a choice needs
// no message: call it with what the ranks have agreed on (constants exchanged as text) and nothing
// else. A few microseconds; callers that repeat themselves keep the answer by plan key.
#pragma once

#include <cstdint>

#include "base/call.h"
#include "plan/cost.h"

namespace fastgpu {

struct ChooseRequest {
  Collective collective = Collective::kAllReduce;
  uint64_t bytes = 0;  // count * element size, count as in Call
  Placement placement;
  // FASTGPU_ALGORITHM; where the collective does not have it, its default is taken.
  Algorithm forced = Algorithm::kAuto;
  int lanes = 0;               // FASTGPU_LANES; 0: chosen
  bool deterministic = false;  // FASTGPU_DETERMINISTIC: rank order, so `direct` where there is one
};

struct Choice {
  Algorithm algorithm = Algorithm::kDirect;
  int lanes = 1;
  uint64_t chunk_bytes = 256 * 1024;
  int shots = 0;             // of direct all_reduce and broadcast; 0 for all else
  uint64_t block_bytes = 0;  // as in PlanRequest

  bool operator==(const Choice&) const = default;
};

inline constexpr int kMaxChosenLanes = 4;
// As many as there are threads to move them, if those are more.
int most_chosen_lanes(int engine_threads);

Choice choose(const ChooseRequest& request, const Constants& constants);

}  // namespace fastgpu
