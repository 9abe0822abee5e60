// The time of a profile with a core for every rank: its longest chain of steps.
//
// A processor runs one step at a time. Links and network interfaces work in parallel with it.
// Frames are cut through: a receiver takes the first bytes while the last ones leave, so a step
// takes as long as its slowest part, not as long as their sum.
//
// Threading: pure functions, any thread.
#pragma once

#include "plan/cost/constants.h"
#include "plan/cost/profile.h"

namespace fastgpu {

// Of a call of `bytes`.
double critical_path_us(const Profile& profile, const Constants& constants, double bytes);

// The processor's time for all that a rank does, and its host's interface's.
double processor_us(const RankWork& work, const Constants& constants, double bytes);
double interface_us(const RankWork& work, const Constants& constants, double bytes);

// The time of the busiest processor, link or interface. One more chunk of a pipeline takes as long.
double busiest_us(const Profile& profile, const Constants& constants, double bytes);

// The processors' time of all ranks of the world together.
double total_work_us(const Profile& profile, const Constants& constants, double bytes);

}  // namespace fastgpu
