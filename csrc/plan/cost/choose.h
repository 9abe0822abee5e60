// Which algorithm a call uses: the cheapest by the cost model.
//
// Ranks that pass equal values get equal choices, so a choice needs no message: call it with what
// the ranks have agreed on (constants exchanged as text) and nothing else.
//
// Threading: as CostModel. A first choice takes the profiles of all candidates; later ones reuse
// them. Callers that repeat themselves keep the answer by plan key.
#pragma once

#include <cstdint>

#include "base/call.h"
#include "plan/cost/cost_model.h"

namespace fastgpu {

struct ChooseRequest {
  Collective collective = Collective::kAllReduce;
  uint64_t bytes = 0;  // count * element size, count as in Call
  Placement placement;
  // FASTGPU_ALGORITHM. A collective without this algorithm takes its default.
  Algorithm forced = Algorithm::kAuto;
  int lanes = 0;               // FASTGPU_LANES; 0: chosen
  Codec codec = Codec::kNone;  // direct or hierarchical all_reduce
  bool deterministic = false;  // FASTGPU_DETERMINISTIC: rank order, so `direct` where there is one
};

struct Choice {
  Algorithm algorithm = Algorithm::kDirect;
  int lanes = 1;
  uint64_t chunk_bytes = 256 * 1024;
  int shots = 0;             // for direct all_reduce and broadcast; else 0
  uint64_t block_bytes = 0;  // as in PlanRequest

  bool operator==(const Choice&) const = default;
};

inline constexpr int kMaxChosenLanes = 4;

Choice choose(const ChooseRequest& request, CostModel& model);
Choice choose(const ChooseRequest& request, const Constants& constants);

}  // namespace fastgpu
