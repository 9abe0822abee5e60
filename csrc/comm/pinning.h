// Which processors a rank's threads run on: a NUMA node, or a share of cores. What a process was
// given, by its launcher or its container, is dealt out among the ranks of its machine; nobody gets
// more than that.
// Thread safety: read_processors any thread; deal is a pure function.
#pragma once

#include <string>
#include <vector>

#include "comm/options.h"
#include "comm/topology.h"

namespace fastgpu {

// Numbers as the kernel's: a core is named by the first of its processors, its hardware threads.
struct Processor {
  int node = 0;
  int core = 0;
  int cpu = 0;
  auto operator<=>(const Processor&) const = default;
};

// "0-3,8,10-11" as the kernel writes lists; nothing for text of another form.
std::vector<int> cpus_from_text(const std::string& text);

// The `allowed` processors by node, core and number. What `system`, a directory, does not tell is
// taken to be a core by itself, of a node behind all others.
std::vector<Processor> read_processors(const std::vector<int>& allowed,
                                       const std::string& system = "/sys/devices/system");

struct Deal {
  Pin pin = Pin::kCore;
  int local_rank = 0;   // of the ranks of this machine
  int local_world = 1;  // how many those are
};

// The processors of one rank, in order. kNode: a node's, with ranks on nodes in proportion to their
// processors. kCore: of that node's cores a share next to its neighbours' shares, whole cores while
// there are enough; with more ranks than processors those are shared in turn; with fewer ranks than
// nodes each gets whole nodes.
std::vector<int> deal(const Deal& deal, const std::vector<Processor>& processors);

class Process;

// Binds the calling thread and those of the process's engine as options.pin says, unless the ranks
// of this machine have different processors already: then their launcher has done it. Says what it
// did in the log; what the system refuses is no error.
void pin_rank(int rank, Pin pin, const Topology& topology, Process& process);

}  // namespace fastgpu
