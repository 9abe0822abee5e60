// Whether two processes can share memory: tested by passing memory from one to the other, not
// guessed from host names.
// Thread safety: free functions without state.
#pragma once

#include <string>

#include "base/clock.h"
#include "control/message.h"

namespace fastgpu {

// Asks the process that listens on the unix socket for memory, and maps it. False if that fails, or
// is not done by the deadline. Waits, so call it on no control thread. Raises OutOfResourcesError
// if one of the two processes is short of a resource.
bool can_map_memory_of(const std::string& unix_name, TimeNs deadline);

// The answer to a kProbe message: memory with a random word in it, and the word. Raises
// OutOfResourcesError.
ControlMessage make_probe_answer();

}  // namespace fastgpu
