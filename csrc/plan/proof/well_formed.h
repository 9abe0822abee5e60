// What can be said about schedules without running them: peers exist, regions are whole elements
// inside their buffers, frames are numbered, lanes share nothing, every pair shakes hands.
#pragma once

#include <span>

#include "plan/proof/contract.h"
#include "plan/schedule.h"

namespace fastgpu {

// Throws ProofFailure for the first thing that does not hold.
void check_well_formed(const Contract& promise, std::span<const Schedule> schedules);

}  // namespace fastgpu
