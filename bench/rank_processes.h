// The ranks of a benchmark as processes of this machine.
// Threading: the caller has no other thread yet, for it forks.
#pragma once

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>
namespace fastgpu {

// Binds the calling thread to the `index`-th of the cores it may use, round and round.
inline void pin_to_core(int index) {
  cpu_set_t allowed;
  ::sched_getaffinity(0, sizeof allowed, &allowed);
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &allowed)) cores.push_back(core);
  }
  if (cores.empty()) return;
  CPU_ZERO(&allowed);
  CPU_SET(cores[static_cast<std::size_t>(index) % cores.size()], &allowed);
  ::sched_setaffinity(0, sizeof allowed, &allowed);
}

// Runs `run_rank(rank, folder)` in a process for each rank, with a folder to meet in, which is
// removed after. It returns an exit status; whether all of them were 0 is returned here.
template <typename RunRank>
bool run_processes(int ranks, const RunRank& run_rank) {
  std::string folder = (std::filesystem::temp_directory_path() / "fastgpu-bench-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) {
    std::perror("cannot make a folder for the rendezvous");
    return false;
  }
  for (int rank = 0; rank < ranks; ++rank) {
    if (::fork() == 0) std::_Exit(run_rank(rank, std::filesystem::path(folder)));
  }
  int failed = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    int status = 0;
    ::wait(&status);
    failed |= status;
  }
  std::filesystem::remove_all(folder);
  return failed == 0;
}

}  // namespace fastgpu
