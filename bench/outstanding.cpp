// Measures many outstanding operations below torch and Python, in three ways: COUNT synchronous
// all_reduces; COUNT asynchronous ones, then all waits; and COUNT asynchronous ones with a wait
// after each. The three take turns in the same processes. A turn takes as long as its slowest rank.
// The output is the median over the turns, per operation. Every result is checked.
//
//   fastgpu_bench_outstanding [--ranks 2] [--count 1000] [--bytes 4096] [--turns 60] [--pin]
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/clock.h"
#include "comm/communicator.h"
#include "comm/runtime.h"
#include "pin.h"
#include "rank_processes.h"

namespace {

using namespace fastgpu;

constexpr int kMostRanks = 64;
constexpr int kMostTurns = 1000;
constexpr std::array kWays = {"synchronous", "all outstanding", "one outstanding"};

struct Arguments {
  int ranks = 2;
  int count = 1000;
  int bytes = 4096;
  int turns = 60;
  bool pin = false;
};

// Shared by the processes: the times of every rank, way and turn.
using Board = std::array<std::array<std::array<TimeNs, kMostTurns>, kWays.size()>, kMostRanks>;

Arguments parse(const std::vector<std::string>& words) {
  Arguments arguments;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const auto value = [&] {
      return i + 1 < words.size() ? static_cast<int>(std::strtol(words[++i].c_str(), nullptr, 10))
                                  : 0;
    };
    if (words[i] == "--ranks") {
      arguments.ranks = std::clamp(value(), 1, kMostRanks);
    } else if (words[i] == "--count") {
      arguments.count = std::max(value(), 1);
    } else if (words[i] == "--bytes") {
      arguments.bytes = std::max(value(), 4);
    } else if (words[i] == "--turns") {
      arguments.turns = std::clamp(value(), 1, kMostTurns);
    } else if (words[i] == "--pin") {
      arguments.pin = true;
    } else {
      std::fprintf(stderr, "unknown argument '%s'; bench/outstanding.cpp describes them\n",
                   words[i].c_str());
      std::_Exit(2);
    }
  }
  return arguments;
}

class Rank {
 public:
  Rank(int rank, const Arguments& arguments, Store& store) : arguments_(arguments) {
    communicator_ = Communicator::create(bench_config(rank, arguments.ranks), store, runtime_);
    const auto elements = static_cast<std::size_t>(arguments.bytes) / sizeof(float);
    tensors_.assign(static_cast<std::size_t>(arguments.count), std::vector<float>(elements));
  }
  ~Rank() { communicator_->shutdown(); }
  Rank(const Rank&) = delete;
  Rank& operator=(const Rank&) = delete;

  TimeNs timed(std::size_t way) {
    for (auto& tensor : tensors_) std::ranges::fill(tensor, 1.0F);
    communicator_->wait(*communicator_->run({}), -1);
    const TimeNs start = now_ns();
    if (way == 1) {
      all_outstanding();
    } else {
      for (auto& tensor : tensors_) finish(*start_on(tensor, way == 0));
    }
    const TimeNs taken = now_ns() - start;
    const auto sum = static_cast<float>(arguments_.ranks);
    for (const auto& tensor : tensors_) {
      if (tensor.front() != sum || tensor.back() != sum) throw std::runtime_error("wrong sum");
    }
    return taken;
  }

 private:
  std::shared_ptr<Work> start_on(std::vector<float>& tensor, bool synchronous) {
    CollectiveCall call;
    call.shape.collective = Collective::kAllReduce;
    call.shape.dtype = DType::kFloat32;
    call.shape.count = tensor.size();
    call.data = reinterpret_cast<std::byte*>(tensor.data());
    call.synchronous = synchronous;
    return communicator_->run(std::move(call));
  }
  void finish(Work& work) {
    if (!work.done()) communicator_->wait(work, -1);
    work.raise_if_failed();
  }
  void all_outstanding() {
    works_.clear();
    for (auto& tensor : tensors_) works_.push_back(start_on(tensor, false));
    for (const auto& work : works_) finish(*work);
  }

  const Arguments& arguments_;
  Runtime runtime_;
  std::shared_ptr<Communicator> communicator_;
  std::vector<std::vector<float>> tensors_;
  std::vector<std::shared_ptr<Work>> works_;
};

void run_rank(int rank, const Arguments& arguments, Store& store, Board& board) {
  if (arguments.pin) pin_to_core(rank);  // before the set-up, which measures the links
  Rank self(rank, arguments, store);
  auto& mine = board[static_cast<std::size_t>(rank)];
  for (std::size_t way = 0; way < kWays.size(); ++way) self.timed(way);
  for (int turn = 0; turn < arguments.turns; ++turn) {
    for (std::size_t way = 0; way < kWays.size(); ++way) {
      mine[way][static_cast<std::size_t>(turn)] = self.timed(way);
    }
  }
}

void print(const Arguments& arguments, const Board& board) {
  std::array<double, kWays.size()> medians{};
  for (std::size_t way = 0; way < kWays.size(); ++way) {
    std::vector<TimeNs> slowest(static_cast<std::size_t>(arguments.turns));
    for (int rank = 0; rank < arguments.ranks; ++rank) {
      for (std::size_t turn = 0; turn < slowest.size(); ++turn) {
        slowest[turn] = std::max(slowest[turn], board[static_cast<std::size_t>(rank)][way][turn]);
      }
    }
    std::ranges::sort(slowest);
    medians[way] = static_cast<double>(slowest[slowest.size() / 2]) / arguments.count * 1e-3;
    std::printf("%-16s %7.3f us  %.2f of synchronous\n", kWays[way], medians[way],
                medians[way] / medians[0]);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments arguments = parse({argv + 1, argv + argc});
  auto& board = map_shared<Board>();
  const bool ok = run_processes(
      arguments.ranks, [&](int rank, Store& store) { run_rank(rank, arguments, store, board); });
  if (ok) print(arguments, board);
  return ok ? 0 : 1;
}
