// Checks of schedules that need no run: peers exist, regions are whole elements inside their
// buffers, frames are numbered without gaps, lanes are independent, and every pair that exchanges
// frames does so in both directions.
//
// Threading: pure functions, any thread.
#pragma once

#include <span>

#include "plan/proof/contract.h"
#include "plan/schedule.h"

namespace fastgpu {

// Throws ProofFailure for the first violation.
void check_well_formed(const Contract& contract, std::span<const Schedule> schedules);

}  // namespace fastgpu
