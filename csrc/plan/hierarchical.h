// Two levels: direct inside each host, rings between hosts.
#pragma once

#include "plan/draft.h"

namespace fastgpu {

void hierarchical_all_reduce(Draft& draft);

}  // namespace fastgpu
