// Measures the floor of an all-reduce of float32 between two processes: the time of the work that
// no implementation can avoid. Two pinned processes copy, add, and synchronise by spinning on two
// words; there are no queues, headers, plans or sleeps.
//
//   fastgpu_bench_bounds [--seconds 0.1] [--ways] BYTES ...
//
// private    Each buffer is mapped by its process only. Three ways to exchange the halves of the
//            buffers are tried with several chunk sizes, and the fastest counts:
//              slots each way      values and sums pass through separate slots of shared memory,
//                                  which stay in the caches
//              written in place    the receiver writes the sums over the values in their slot
//              read by the kernel  process_vm_readv reads the other process's buffer (CMA)
//            --ways prints the fastest time of each way.
// symmetric  Both processes map both buffers. Each process adds one half of both buffers and stores
//            the sum in both.
//
// Both buffers are written before every call; this is not timed. For each result the program prints
// "@@ " and a line of JSON, as fastgpu_bench_core does with --json.
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/clock.h"
#include "pin.h"

// Use the widest vectors of the processor, so that the machine sets the floor, not the compiler.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FASTGPU_WIDEST __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define FASTGPU_WIDEST
#endif

namespace {

using fastgpu::now_ns;
using fastgpu::TimeNs;

constexpr int kMostCalls = 2000;
constexpr int kFewestCalls = 5;
constexpr int kWarmUps = 3;
constexpr std::size_t kLargestChunk = std::size_t{1} << 20;
constexpr std::size_t kSmallBytes = std::size_t{64} << 10;  // also tried whole: one barrier, not 2
constexpr std::size_t kTinyBytes = 256;                     // never split into halves
constexpr std::size_t kSlots = 4;                           // two for values, two for sums

struct Shared {
  struct alignas(128) Word {
    std::atomic<uint64_t> value{0};
  };
  std::array<Word, 2> arrived;    // barriers reached, by process
  std::array<float*, 2> buffers;  // by process, in its own address space
  std::array<pid_t, 2> pids;
  std::array<bool, 2> can_read;  // whether the kernel lets the process read the other's memory
  std::array<std::array<double, kMostCalls>, 2> seconds;
  int calls = 0;
};

struct Half {
  std::size_t offset = 0;
  std::size_t count = 0;
};

FASTGPU_WIDEST void add_into_both(float* __restrict mine, float* __restrict other,
                                  std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) mine[i] = other[i] = mine[i] + other[i];
}

FASTGPU_WIDEST void add_and_publish(float* __restrict mine, const float* __restrict other,
                                    float* __restrict published, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) mine[i] = published[i] = mine[i] + other[i];
}

FASTGPU_WIDEST void add(float* __restrict mine, const float* __restrict other, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) mine[i] += other[i];
}

void* map(std::size_t bytes, int visibility) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | visibility, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("fastgpu_bench_bounds: mmap");
    std::_Exit(1);
  }
  ::madvise(memory, bytes, MADV_HUGEPAGE);
  std::memset(memory, 0, bytes);
  return memory;
}

float* map_floats(std::size_t bytes, int visibility) {
  return static_cast<float*>(map(bytes, visibility));
}

// One of the two processes.
class Side {
 public:
  Side(int me, bool ways, Shared& shared, std::array<float*, 2> symmetric, float* stage,
       std::size_t bytes)
      : me_(me),
        ways_(ways),
        shared_(shared),
        symmetric_(symmetric),
        stage_(stage),
        mine_(map_floats(bytes, MAP_PRIVATE)),
        scratch_(map_floats(kLargestChunk, MAP_PRIVATE)) {
    shared_.buffers[static_cast<std::size_t>(me)] = mine_;
    shared_.pids[static_cast<std::size_t>(me)] = ::getpid();
    barrier();
    shared_.can_read[static_cast<std::size_t>(me)] = read_from_other(scratch_, 0, 1);
    barrier();
  }

  void measure_private(std::size_t bytes, double budget);
  void measure_symmetric(std::size_t bytes, double budget);

 private:
  void barrier() {
    shared_.arrived[static_cast<std::size_t>(me_)].value.store(++barriers_,
                                                               std::memory_order_release);
    const std::atomic<uint64_t>& other = shared_.arrived[static_cast<std::size_t>(1 - me_)].value;
    while (other.load(std::memory_order_acquire) < barriers_) {
    }
  }
  float* slot(int owner, std::size_t index) const {
    return stage_ + (static_cast<std::size_t>(owner) * kSlots + index) * (kLargestChunk / 4);
  }
  Half half_of(int owner, std::size_t count) const {
    const std::size_t first = count / 2 / 16 * 16;
    return owner == 0 ? Half{0, first} : Half{first, count - first};
  }
  struct Parts {
    Half own;
    Half theirs;
    std::size_t chunk;  // elements
  };
  Parts parts(std::size_t bytes, std::size_t chunk_bytes) const {
    return {half_of(me_, bytes / 4), half_of(1 - me_, bytes / 4), chunk_bytes / 4};
  }
  // The elements of the chunk that starts at element `done` of the half.
  static std::size_t left(Half half, std::size_t done, std::size_t chunk) {
    return done < half.count ? std::min(chunk, half.count - done) : 0;
  }
  void symmetric_call(std::size_t bytes);
  void staged_whole(std::size_t bytes);
  void staged_in_chunks(std::size_t bytes, std::size_t chunk_bytes);
  void written_in_chunks(std::size_t bytes, std::size_t chunk_bytes);
  void read_in_chunks(std::size_t bytes, std::size_t chunk_bytes);
  bool read_from_other(float* target, std::size_t offset, std::size_t count) const;
  template <typename Prepare, typename Call>
  double median_seconds(double budget, Prepare prepare, Call call);
  void print(const char* kind, std::size_t bytes, double seconds) const;

  const int me_;
  const bool ways_;
  Shared& shared_;
  const std::array<float*, 2> symmetric_;
  float* const stage_;
  float* const mine_;
  float* const scratch_;
  uint64_t barriers_ = 0;
  uint64_t calls_ = 0;
};

void Side::symmetric_call(std::size_t bytes) {
  const std::size_t count = bytes / 4;
  float* mine = symmetric_[static_cast<std::size_t>(me_)];
  float* other = symmetric_[static_cast<std::size_t>(1 - me_)];
  if (bytes <= kTinyBytes) {
    std::array<float, kTinyBytes / 4> sums;
    for (std::size_t i = 0; i < count; ++i) sums[i] = symmetric_[0][i] + symmetric_[1][i];
    barrier();
    std::memcpy(mine, sums.data(), bytes);
  } else {
    const Half half = half_of(me_, count);
    add_into_both(mine + half.offset, other + half.offset, half.count);
  }
  barrier();
}

// Two slots alternate. Before a process writes a slot again, the other process has read it, because
// there was a barrier in between.
void Side::staged_whole(std::size_t bytes) {
  const std::size_t turn = ++calls_ % 2;
  std::memcpy(slot(me_, turn), mine_, bytes);
  barrier();
  add(mine_, slot(1 - me_, turn), bytes / 4);
}

void Side::staged_in_chunks(std::size_t bytes, std::size_t chunk_bytes) {
  const auto [own, theirs, chunk] = parts(bytes, chunk_bytes);
  for (std::size_t done = 0; done < std::max(own.count, theirs.count); done += chunk) {
    const std::size_t turn = done / chunk % 2;
    float* my_part = mine_ + own.offset + done;
    float* their_part = mine_ + theirs.offset + done;
    std::memcpy(slot(me_, turn), their_part, left(theirs, done, chunk) * 4);
    barrier();
    add_and_publish(my_part, slot(1 - me_, turn), slot(me_, 2 + turn), left(own, done, chunk));
    barrier();
    std::memcpy(their_part, slot(1 - me_, 2 + turn), left(theirs, done, chunk) * 4);
  }
  barrier();
}

// The sums return in the slot of the values, so each cache line moves between the cores twice, not
// four times.
void Side::written_in_chunks(std::size_t bytes, std::size_t chunk_bytes) {
  const auto [own, theirs, chunk] = parts(bytes, chunk_bytes);
  for (std::size_t done = 0; done < std::max(own.count, theirs.count); done += chunk) {
    float* their_part = mine_ + theirs.offset + done;
    std::memcpy(slot(me_, 0), their_part, left(theirs, done, chunk) * 4);
    barrier();
    add_into_both(mine_ + own.offset + done, slot(1 - me_, 0), left(own, done, chunk));
    barrier();
    std::memcpy(their_part, slot(me_, 0), left(theirs, done, chunk) * 4);
  }
}

bool Side::read_from_other(float* target, std::size_t offset, std::size_t count) const {
  const auto other = static_cast<std::size_t>(1 - me_);
  const iovec local{target, count * 4};
  const iovec remote{shared_.buffers[other] + offset, count * 4};
  return ::process_vm_readv(shared_.pids[other], &local, 1, &remote, 1, 0) ==
         static_cast<ssize_t>(count * 4);
}

void Side::read_in_chunks(std::size_t bytes, std::size_t chunk_bytes) {
  const auto [own, theirs, chunk] = parts(bytes, chunk_bytes);
  for (std::size_t done = 0; done < own.count; done += chunk) {
    const std::size_t count = std::min(chunk, own.count - done);
    read_from_other(scratch_, own.offset + done, count);
    add(mine_ + own.offset + done, scratch_, count);
  }
  barrier();
  read_from_other(mine_ + theirs.offset, theirs.offset, theirs.count);
  barrier();
}

// A call takes as long as in the slower process.
template <typename Prepare, typename Call>
double Side::median_seconds(double budget, Prepare prepare, Call call) {
  const auto timed = [&] {
    prepare();
    barrier();
    const TimeNs start = now_ns();
    call();
    return static_cast<double>(now_ns() - start) * 1e-9;
  };
  double last = 0;
  for (int i = 0; i < kWarmUps; ++i) last = timed();
  if (me_ == 0) {
    shared_.calls = std::clamp(static_cast<int>(budget / last), kFewestCalls, kMostCalls);
  }
  barrier();
  const int calls = shared_.calls;
  for (int i = 0; i < calls; ++i) {
    shared_.seconds[static_cast<std::size_t>(me_)][static_cast<std::size_t>(i)] = timed();
  }
  barrier();
  std::vector<double> slower(static_cast<std::size_t>(calls));
  for (std::size_t i = 0; i < slower.size(); ++i) {
    slower[i] = std::max(shared_.seconds[0][i], shared_.seconds[1][i]);
  }
  barrier();
  std::ranges::sort(slower);
  return slower[slower.size() / 2];
}

void Side::measure_private(std::size_t bytes, double budget) {
  const auto rewrite = [&] { std::memset(mine_, 0, bytes); };
  double slots = 1e9;
  double in_place = 1e9;
  double reads = 1e9;
  const auto consider = [&](double& least, double share, auto call) {
    least = std::min(least, median_seconds(budget * share, rewrite, call));
  };
  if (bytes <= kSmallBytes) consider(slots, 1, [&] { staged_whole(bytes); });
  constexpr std::array kChunks = {kLargestChunk / 32, kLargestChunk / 8, kLargestChunk / 2};
  for (const std::size_t chunk : kChunks) {
    if (bytes <= kTinyBytes) break;
    constexpr double kShare = 1.0 / kChunks.size();
    consider(in_place, kShare, [&] { written_in_chunks(bytes, chunk); });
    if (shared_.can_read[0] && shared_.can_read[1]) {
      consider(reads, kShare, [&] { read_in_chunks(bytes, chunk); });
    }
    if (bytes >= chunk) consider(slots, kShare, [&] { staged_in_chunks(bytes, chunk); });
  }
  print("private", bytes, std::min({slots, in_place, reads}));
  if (!ways_ || bytes <= kTinyBytes) return;
  print("slots each way", bytes, slots);
  print("written in place", bytes, in_place);
  print("read by the kernel", bytes, reads);
}

void Side::measure_symmetric(std::size_t bytes, double budget) {
  const auto rewrite = [&] { std::memset(symmetric_[static_cast<std::size_t>(me_)], 0, bytes); };
  print("symmetric", bytes, median_seconds(budget, rewrite, [&] { symmetric_call(bytes); }));
}

void Side::print(const char* kind, std::size_t bytes, double seconds) const {
  if (me_ != 0) return;
  std::printf(
      "@@ {\"kind\":\"%s\",\"op\":\"all_reduce\",\"dtype\":\"float32\",\"bytes\":%zu,"
      "\"ok\":true,\"p50_us\":%.3f}\n",
      kind, bytes, seconds * 1e6);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  double budget = 0.1;
  bool ways = false;
  std::vector<std::size_t> sizes;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--seconds" && i + 1 < argc) {
      budget = std::strtod(argv[++i], nullptr);
    } else if (std::string(argv[i]) == "--ways") {
      ways = true;
    } else {
      sizes.push_back(std::strtoull(argv[i], nullptr, 10) / 4 * 4);
    }
  }
  if (sizes.empty() || fastgpu::available_cores().size() < 2) {
    std::fputs("fastgpu_bench_bounds: needs sizes in bytes, and two cores\n", stderr);
    return 2;
  }
  const std::size_t largest = std::max(std::ranges::max(sizes), std::size_t{4096});
  auto* shared = new (map(sizeof(Shared), MAP_SHARED)) Shared;
  const std::array symmetric = {map_floats(largest, MAP_SHARED), map_floats(largest, MAP_SHARED)};
  float* stage = map_floats(2 * kSlots * kLargestChunk, MAP_SHARED);
  const int me = ::fork() == 0 ? 1 : 0;
  fastgpu::pin_to_core(me);
  Side side(me, ways, *shared, symmetric, stage, largest);
  for (const std::size_t bytes : sizes) {
    side.measure_private(bytes, budget);
    side.measure_symmetric(bytes, budget);
  }
  if (me == 1) std::_Exit(0);
  ::wait(nullptr);
  return 0;
}
