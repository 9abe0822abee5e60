// Runs the ranks of a benchmark as processes of this machine.
// Threading: they are forked, so the caller must have only one thread.
#pragma once

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <new>
#include <string>

#include "comm/communicator.h"
#include "folder_store.h"

namespace fastgpu {

inline CommunicatorConfig bench_config(int rank, int world) {
  CommunicatorConfig config;
  config.rank = rank;
  config.world = world;
  config.name = "bench";
  config.timeout_ms = 60'000;
  config.options = options_from_environment(fastgpu_environment());
  return config;
}

// Returns a zeroed T in memory that the caller shares with processes it forks later. It is never
// unmapped.
template <typename T>
T& map_shared() {
  void* memory =
      ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("cannot map shared memory");
    std::_Exit(1);
  }
  return *static_cast<T*>(memory);
}

// Runs `run_rank(rank, store)` in one process per rank. Returns whether none of them threw.
template <typename RunRank>
bool run_processes(int ranks, const RunRank& run_rank) {
  std::string folder = (std::filesystem::temp_directory_path() / "fastgpu-bench-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) {
    std::perror("cannot create a folder for the rendezvous");
    return false;
  }
  for (int rank = 0; rank < ranks; ++rank) {
    if (::fork() != 0) continue;
    try {
      FolderStore store(folder);
      run_rank(rank, store);
      std::_Exit(0);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
      std::_Exit(1);
    }
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
