// The tests of device code find planted faults. A fault runs in a process of its own, because the
// machine ends the process when it finds one, and the thread sanitizer makes it fail.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "check.h"
#include "kernels/cuda/packs.h"
#include "lane_world.h"
#include "sim/schedule_cases.h"
#include "small_world.h"
#include "stream_world.h"

namespace fastgpu::test {
namespace {

using device::Entry;
using device::EntryKind;
using device::Table;
using simt::MachineFault;

#if defined(__SANITIZE_THREAD__)
constexpr bool kFindsRaces = true;
#else
constexpr bool kFindsRaces = false;
#endif
constexpr const char* kRace = "data race";

// Set in the process that runs a fault.
constexpr const char* kRunsFault = "FASTGPU_TEST_RUNS_FAULT";

using RunSeed = std::function<std::string(uint64_t seed)>;

[[noreturn]] void run_fault(const RunSeed& run) {
  constexpr uint64_t kMostCases = 20;
  for (uint64_t seed = 1; seed <= kMostCases; ++seed) {
    const std::string found = run(seed);
    if (found.empty()) continue;
    dprintf(STDERR_FILENO, "found: %s\n", found.c_str());
    break;
  }
  _exit(0);
}

// Runs the cases of seeds 1, 2, ... in a new process until one of them, or a sanitizer, has found
// something. Returns what the process has printed. `test` is the name of the calling test,
// __func__: the process runs that again and gets here. A fork without exec would not do, because
// the thread sanitizer stops looking at synchronisation after it.
std::string output_of(const std::string& test, const RunSeed& run) {
  // No test changes the environment. NOLINTNEXTLINE(concurrency-mt-unsafe)
  if (std::getenv(kRunsFault) != nullptr) run_fault(run);
  int ends[2];
  if (pipe(ends) != 0) throw Failed("no pipe");
  std::fflush(stdout);
  const std::string filter = "test_faults." + test;
  std::string marker = std::string(kRunsFault) + "=1";
  char* const environment[] = {marker.data(), nullptr};
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    execle("/proc/self/exe", "tests", filter.c_str(), nullptr, environment);
    _exit(1);
  }
  close(ends[1]);
  std::string output;
  char buffer[4096];
  for (ssize_t size = 0; (size = read(ends[0], buffer, sizeof buffer)) > 0;) {
    output.append(buffer, static_cast<std::size_t>(size));
    if (output.find(kRace) != std::string::npos) kill(child, SIGKILL);
  }
  close(ends[0]);
  waitpid(child, nullptr, 0);
  return output;
}

void check_found(const std::string& output, const std::vector<std::string>& any_of) {
  for (const std::string& text : any_of) {
    if (output.find(text) != std::string::npos) return;
  }
  throw Failed("not found; the output is: " + output.substr(0, 2000));
}

// Float sums by direct and ring algorithms, on a GPU for each rank.
LaneCase exposed_case(uint64_t seed, const Planted& planted) {
  LaneCase exposed;
  exposed.request =
      request_of(Collective::kAllReduce, seed % 2 == 0 ? Algorithm::kDirect : Algorithm::kRing,
                 3 + static_cast<int>(seed % 3), 400);
  exposed.request.element_size = 4;
  exposed.request.shots = seed % 2 == 0 ? 2 : 0;
  exposed.slow_stream = true;
  exposed.threads = 64;
  exposed.seed = seed;
  exposed.planted = planted;
  return exposed;
}

std::string output_of_lanes(const std::string& test, const Planted& planted) {
  return output_of(test, [&](uint64_t seed) { return run_case(exposed_case(seed, planted)); });
}

void remove_awaits(Table& table) {
  Table rest;
  for (std::size_t lane = 0; lane + 1 < table.first.size(); ++lane) {
    rest.first.push_back(static_cast<uint32_t>(rest.entries.size()));
    std::copy_if(table.entries.begin() + table.first[lane],
                 table.entries.begin() + table.first[lane + 1], std::back_inserter(rest.entries),
                 [](const Entry& entry) { return entry.kind != EntryKind::kAwait; });
  }
  rest.first.push_back(static_cast<uint32_t>(rest.entries.size()));
  table = rest;
}

// Moves every kTaken group in front of the step whose frames it acknowledges.
void acknowledge_early(Table& table) {
  auto step = table.entries.end();
  for (auto entry = table.entries.begin(); entry != table.entries.end(); ++entry) {
    if (entry->kind == EntryKind::kCombine) step = entry;
    if (entry->kind != EntryKind::kTaken || (entry - 1)->kind == EntryKind::kTaken) continue;
    std::rotate(step, entry, entry + entry->count);
  }
}

// Every frame is read from 16 bytes further on.
void read_beside(Table& table) {
  for (Entry& entry : table.entries) {
    if (entry.kind == EntryKind::kSource && entry.frame != 0) entry.place += 16;
  }
}

void swap_sources(Table& table) {
  for (std::size_t i = 0; i < table.entries.size(); ++i) {
    if (table.entries[i].kind == EntryKind::kCombine && table.entries[i].count > 2) {
      std::swap(table.entries[i + 1], table.entries[i + 3]);
    }
  }
}

}  // namespace

TEST(nothing_is_found_without_a_fault) {
  const std::string output = output_of_lanes(__func__, {});
  CHECK(output.find("found: ") == std::string::npos && output.find(kRace) == std::string::npos);
}

// Without the sanitizer these show on a machine with weak memory only.
#if defined(__SANITIZE_THREAD__)
TEST(a_release_that_orders_nothing_is_found) {
  check_found(output_of_lanes(__func__, {.machine = MachineFault::kRelaxedRelease}), {kRace});
}

TEST(a_release_for_one_gpu_only_is_found) {
  check_found(output_of_lanes(__func__, {.machine = MachineFault::kReleaseForOneGpu}), {kRace});
}

TEST(an_acquire_that_orders_nothing_is_found) {
  check_found(output_of_lanes(__func__, {.machine = MachineFault::kRelaxedAcquire}), {kRace});
}

TEST(a_barrier_that_orders_nothing_is_found) {
  check_found(output_of_lanes(__func__, {.machine = MachineFault::kUnorderedBarriers}), {kRace});
}
#endif

TEST(a_missing_barrier_is_found) {
  check_found(output_of_lanes(__func__, {.machine = MachineFault::kSkippedBarriers}),
              kFindsRaces ? std::vector<std::string>{kRace}
                          : std::vector<std::string>{"differs", "simt: "});
}

TEST(words_without_the_number_of_the_operation_are_found) {
  check_found(output_of_lanes(__func__, {.operation_is_not_counted = true}),
              {"differs", "mismatch", kRace});
}

TEST(a_kernel_that_ends_before_its_peers_have_read_is_found) {
  check_found(output_of_lanes(__func__, {.mutate = remove_awaits}),
              kFindsRaces ? std::vector<std::string>{kRace}
                          : std::vector<std::string>{"differs", "mismatch"});
}

TEST(a_frame_that_is_acknowledged_before_it_is_read_is_found) {
  check_found(output_of_lanes(__func__, {.mutate = acknowledge_early}),
              kFindsRaces ? std::vector<std::string>{kRace}
                          : std::vector<std::string>{"differs", "mismatch"});
}

TEST(a_frame_that_is_read_beside_its_place_is_found) {
  check_found(output_of_lanes(__func__, {.mutate = read_beside}), {"differs", kRace});
}

TEST(sources_in_another_order_are_found) {
  check_found(output_of_lanes(__func__, {.mutate = swap_sources}), {"differs"});
}

TEST(a_stream_that_does_not_wait_is_found) {
  const auto run = [](uint64_t seed) {
    return run_streams(seed, MachineFault::kEventIsNotAwaited);
  };
  check_found(output_of(__func__, run),
              kFindsRaces ? std::vector<std::string>{kRace} : std::vector<std::string>{"differs"});
}

TEST(one_set_of_slots_instead_of_two_is_found) {
  check_found(output_of(__func__,
                        [](uint64_t seed) {
                          SmallCase one_set;
                          one_set.world = 3;
                          one_set.counts = {300, 300, 300, 300, 300};
                          one_set.slow_stream = true;
                          one_set.has_one_set = true;
                          one_set.seed = seed;
                          return run_small(one_set);
                        }),
              {"differs", "stopped"});
}

TEST(an_access_that_is_not_aligned_is_found) {
  check_found(output_of(__func__,
                        [](uint64_t seed) {
                          simt::Machine machine({.seed = seed});
                          simt::Stream* const stream = machine.make_stream(0);
                          DeviceMemory memory(64);
                          machine.launch(stream, {}, [&] { device::load_pack(memory.data() + 4); });
                          machine.synchronize(stream);
                          return std::string();
                        }),
              {"misaligned address"});
}

TEST(a_shuffle_that_is_forgotten_changes_the_result) {
  const auto sum_of = [](MachineFault fault) {
    simt::Machine machine({.seed = 1, .fault = fault});
    simt::Stream* const stream = machine.make_stream(0);
    uint32_t sums[simt::kWarpSize];
    machine.launch(stream, {}, [&] {
      uint32_t sum = simt::thread_index();
      for (unsigned mask = 16; mask > 0; mask /= 2) sum += simt::shuffle_xor(sum, mask);
      sums[simt::thread_index()] = sum;
    });
    machine.synchronize(stream);
    return sums[0];
  };
  CHECK_EQ(sum_of(MachineFault::kNone), 496u);
  CHECK(sum_of(MachineFault::kShuffleKeepsOwn) != 496u);
}

}  // namespace fastgpu::test
