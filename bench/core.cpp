// Measures collectives below torch and Python: processes of one host call the communicator and
// wait. Sizes are those of nccl-tests; a call takes as long as its slowest rank; p50 is the median
// over the calls. Every result is checked once.
//
//   fastgpu_bench_core [--ranks 2] [--symmetric] [--touch] [--pin] [--seconds 0.25] [--json]
//                      COLLECTIVE:DTYPE:BYTES ...
//
// --symmetric  buffers are in symmetric memory; otherwise in private memory
// --touch      every rank writes its buffer before each call (not timed), as programs do
// --pin        each rank is pinned to a core, as MPI's launchers do
// --seconds    the time for an entry
// --json       prints "@@ " and a line of JSON for each entry, instead of a table
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "comm/communicator.h"
#include "comm/runtime.h"
#include "comm/store.h"
#include "pin.h"
#include "rank_processes.h"

namespace {

using namespace fastgpu;

constexpr int kMostCalls = 3000;
constexpr int kFewestCalls = 5;
constexpr int kWarmUps = 3;
constexpr int kMostRanks = 64;

struct Entry {
  Collective collective = Collective::kAllReduce;
  DType dtype = DType::kFloat32;
  uint64_t bytes = 0;
};

struct Arguments {
  int ranks = 2;
  bool symmetric = false;
  bool touch = false;
  bool json = false;
  bool pin = false;
  double seconds = 0.25;
  std::vector<Entry> entries;
};

// Shared by the processes: the times of every rank, and the number of calls to make.
struct Board {
  double seconds[kMostRanks][kMostCalls];
  double cpu_seconds[kMostRanks];
  int calls;
};

[[noreturn]] void stop(const std::string& why) {
  std::fprintf(stderr, "fastgpu_bench_core: %s; bench/core.cpp describes the arguments\n",
               why.c_str());
  std::_Exit(2);
}

Entry parse_entry(const std::string& text) {
  Entry entry;
  const std::size_t first = text.find(':');
  const std::size_t second = text.rfind(':');
  if (first == second) stop("'" + text + "' is not COLLECTIVE:DTYPE:BYTES");
  const auto find = [&](int count, std::string_view wanted, auto make) {
    for (int i = 0; i < count; ++i) {
      if (name_of(make(i)) == wanted) return make(i);
    }
    stop("'" + std::string(wanted) + "' in '" + text + "' is unknown");
  };
  entry.collective = find(kCollectiveCount, text.substr(0, first),
                          [](int i) { return static_cast<Collective>(i); });
  entry.dtype = find(kDTypeCount, text.substr(first + 1, second - first - 1),
                     [](int i) { return static_cast<DType>(i); });
  entry.bytes = std::strtoull(text.c_str() + second + 1, nullptr, 10);
  return entry;
}

Arguments parse(std::vector<std::string> words) {
  Arguments arguments;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    const auto value = [&] { return i + 1 < words.size() ? words[++i] : "0"; };
    if (word == "--ranks") {
      arguments.ranks = static_cast<int>(std::strtol(value().c_str(), nullptr, 10));
    } else if (word == "--symmetric") {
      arguments.symmetric = true;
    } else if (word == "--touch") {
      arguments.touch = true;
    } else if (word == "--pin") {
      arguments.pin = true;
    } else if (word == "--json") {
      arguments.json = true;
    } else if (word == "--seconds") {
      arguments.seconds = std::strtod(value().c_str(), nullptr);
    } else {
      arguments.entries.push_back(parse_entry(word));
    }
  }
  if (arguments.entries.empty()) stop("there is no entry to measure");
  if (arguments.ranks < 1 || arguments.ranks > kMostRanks) stop("--ranks must be 1 to 64");
  for (const Entry& entry : arguments.entries) {
    const bool shared =
        entry.collective != Collective::kAllReduce && entry.collective != Collective::kBroadcast;
    const auto parts = static_cast<uint64_t>(shared ? arguments.ranks : 1);
    if (entry.bytes < size_of(entry.dtype) * parts) {
      stop("the bytes of an entry are fewer than one element per rank");
    }
  }
  return arguments;
}

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

class Rank {
 public:
  Rank(int rank, const Arguments& arguments, Store& store, Board& board)
      : rank_(rank), arguments_(arguments), board_(board) {
    communicator_ = Communicator::create(bench_config(rank, arguments.ranks), store, runtime_);
  }
  ~Rank() { communicator_->shutdown(); }
  Rank(const Rank&) = delete;
  Rank& operator=(const Rank&) = delete;

  void measure(const Entry& entry);

 private:
  bool in_place() const {
    return entry_.collective == Collective::kAllReduce ||
           entry_.collective == Collective::kBroadcast;
  }
  std::byte* allocate(uint64_t bytes);
  void release(std::byte* memory);
  void fill(std::byte* memory, float value) const;
  float at(const std::byte* memory, uint64_t element) const;
  bool correct() const;
  CollectiveCall call() const;
  void run(const CollectiveCall& call) {
    const std::shared_ptr<Work> work = communicator_->run(call);
    if (!work->done()) communicator_->wait(*work, -1);
    work->raise_if_failed();
  }
  void barrier() { run({}); }
  double timed(const CollectiveCall& call);
  int calls_for(double seconds);
  void print(bool is_correct, double wall_seconds) const;

  const int rank_;
  const Arguments& arguments_;
  Board& board_;
  Runtime runtime_;
  std::shared_ptr<Communicator> communicator_;
  Entry entry_;
  std::byte* input_ = nullptr;
  std::byte* data_ = nullptr;
};

std::byte* Rank::allocate(uint64_t bytes) {
  return arguments_.symmetric
             ? runtime_.heap().allocate(bytes)
             : static_cast<std::byte*>(std::aligned_alloc(4096, (bytes + 4096) / 4096 * 4096));
}

void Rank::release(std::byte* memory) {
  arguments_.symmetric ? runtime_.heap().free(memory) : std::free(memory);
}

void Rank::fill(std::byte* memory, float value) const {
  const std::size_t size = size_of(entry_.dtype);
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  if (entry_.dtype == DType::kBFloat16) bits >>= 16;
  if (entry_.dtype == DType::kFloat16) bits = ((bits >> 13) & 0x3ff) | (((bits >> 23) - 112) << 10);
  for (uint64_t i = 0; i + size <= entry_.bytes; i += size) std::memcpy(memory + i, &bits, size);
}

float Rank::at(const std::byte* memory, uint64_t element) const {
  const std::size_t size = size_of(entry_.dtype);
  uint32_t bits = 0;
  std::memcpy(&bits, memory + element * size, size);
  if (entry_.dtype == DType::kBFloat16) bits <<= 16;
  if (entry_.dtype == DType::kFloat16) bits = ((bits & 0x3ff) << 13) | (((bits >> 10) + 112) << 23);
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Whether the result is right for inputs of which every element is rank + 1.
bool Rank::correct() const {
  const auto world = static_cast<uint64_t>(arguments_.ranks);
  const uint64_t elements = entry_.bytes / size_of(entry_.dtype);
  const uint64_t part = elements / world;
  uint64_t outputs = in_place() ? elements : part * world;  // without the remainder
  if (entry_.collective == Collective::kReduceScatter) outputs = part;
  const uint64_t sum = world * (world + 1) / 2;
  for (uint64_t i = 0; i < outputs; ++i) {
    uint64_t expected = sum;
    if (entry_.collective == Collective::kBroadcast) expected = 1;
    if (entry_.collective == Collective::kAllGather || entry_.collective == Collective::kAllToAll) {
      expected = 1 + i / part;
    }
    if (at(data_, i) != static_cast<float>(expected)) return false;
  }
  return true;
}

CollectiveCall Rank::call() const {
  CollectiveCall call;
  call.shape.collective = entry_.collective;
  call.shape.dtype = entry_.dtype;
  call.shape.count = entry_.bytes / size_of(entry_.dtype);
  if (!in_place()) call.shape.count /= static_cast<uint64_t>(arguments_.ranks);
  call.shape.root = entry_.collective == Collective::kBroadcast ? 0 : -1;
  call.data = data_;
  call.input = in_place() ? data_ : input_;
  return call;
}

double Rank::timed(const CollectiveCall& call) {
  if (arguments_.touch) {
    std::memset(in_place() ? data_ : input_, 0, entry_.bytes);
    barrier();
  } else if (entry_.collective == Collective::kBroadcast) {
    barrier();
  }
  const TimeNs start = now_ns();
  run(call);
  return static_cast<double>(now_ns() - start) * 1e-9;
}

// Rank 0 decides, so that all ranks make the same number of calls.
int Rank::calls_for(double seconds) {
  if (rank_ == 0) {
    board_.calls = std::clamp(static_cast<int>(arguments_.seconds / std::max(seconds, 1e-7)),
                              kFewestCalls, kMostCalls);
  }
  barrier();
  return board_.calls;
}

void Rank::measure(const Entry& entry) {
  entry_ = entry;
  data_ = allocate(entry.bytes);
  input_ = in_place() ? nullptr : allocate(entry.bytes);
  const CollectiveCall call = this->call();
  fill(in_place() ? data_ : input_, static_cast<float>(rank_ + 1));
  run(call);
  const bool is_correct = correct();
  std::memset(in_place() ? data_ : input_, 0, entry.bytes);
  double least = 1e9;
  for (int i = 0; i < kWarmUps; ++i) {
    barrier();
    least = std::min(least, timed(call));
  }
  const int calls = calls_for(least);
  const double cpu_before = cpu_seconds();
  const TimeNs start = now_ns();
  for (int i = 0; i < calls; ++i) board_.seconds[rank_][i] = timed(call);
  const double wall_seconds = static_cast<double>(now_ns() - start) * 1e-9;
  board_.cpu_seconds[rank_] = cpu_seconds() - cpu_before;
  barrier();
  if (rank_ == 0) print(is_correct, wall_seconds);
  barrier();
  release(data_);
  if (input_ != nullptr) release(input_);
}

void Rank::print(bool is_correct, double wall_seconds) const {
  std::vector<double> slowest(static_cast<std::size_t>(board_.calls));
  double cpu = 0;
  for (int rank = 0; rank < arguments_.ranks; ++rank) {
    cpu += board_.cpu_seconds[rank];
    for (int i = 0; i < board_.calls; ++i) {
      double& at = slowest[static_cast<std::size_t>(i)];
      at = std::max(at, board_.seconds[rank][i]);
    }
  }
  std::ranges::sort(slowest);
  const std::string collective(name_of(entry_.collective));
  const std::string dtype(name_of(entry_.dtype));
  const auto bytes = static_cast<unsigned long long>(entry_.bytes);
  const double p50 = slowest[slowest.size() / 2] * 1e6;
  const double p90 = slowest[slowest.size() * 9 / 10] * 1e6;
  const double least = slowest.front() * 1e6;
  const double mean = wall_seconds / board_.calls * 1e6;
  if (arguments_.json) {
    std::printf(
        "@@ {\"op\":\"%s\",\"dtype\":\"%s\",\"bytes\":%llu,\"n\":%d,\"iters\":%d,"
        "\"ok\":%s,\"p50_us\":%.3f,\"p90_us\":%.3f,\"min_us\":%.3f,\"mean_us\":%.3f,"
        "\"wall_s\":%.6f,\"cpu_user_s\":%.6f,\"cpu_sys_s\":0}\n",
        collective.c_str(), dtype.c_str(), bytes, arguments_.ranks, board_.calls,
        is_correct ? "true" : "false", p50, p90, least, mean, wall_seconds, cpu);
  } else {
    std::printf(
        "%-14s %-8s %10llu B %d ranks %5d calls %s  p50 %.2f  p90 %.2f  min %.2f  mean %.2f"
        " us  processors %.2f s/GB\n",
        collective.c_str(), dtype.c_str(), bytes, arguments_.ranks, board_.calls,
        is_correct ? "ok" : "WRONG", p50, p90, least, mean,
        cpu / board_.calls / static_cast<double>(bytes) * 1e9);
  }
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments arguments = parse({argv + 1, argv + argc});
  auto& board = map_shared<Board>();
  const bool ok = run_processes(arguments.ranks, [&](int rank, Store& store) {
    if (arguments.pin) pin_to_core(rank);  // before the set-up, which measures the links
    Rank self(rank, arguments, store, board);
    for (const Entry& entry : arguments.entries) self.measure(entry);
  });
  return ok ? 0 : 1;
}
