// The monitored barrier. It uses the store only, so that it works when the channels do not: every
// rank writes a key; rank 0 waits for all keys and writes the names of the ranks that are missing.
//
// Programs, and torch's own tests, look for the first words of gloo's messages.
#include <algorithm>
#include <vector>

#include "torch/backend/backend.h"
#include "torch/backend/errors.h"
#include "torch/backend/store.h"

namespace fastgpu {
namespace {

constexpr std::size_t kMostNamed = 8;

Failure timed_out(int rank, int peer, std::string message) {
  Failure failure =
      make_failure(ErrorKind::kTimeout, std::move(message), peer, "monitored_barrier");
  failure.rank = rank;
  return failure;
}

std::string list_of(const std::vector<int>& ranks) {
  std::string text;
  for (const int rank : ranks) text += (text.empty() ? "" : ", ") + std::to_string(rank);
  return text;
}

// "; look at rank 1 (host n2, pid 4711). Seen by rank 0 of group '0'".
std::string where_to_look(const Communicator& communicator, const std::vector<int>& missing) {
  std::string text = "; look at ";
  for (std::size_t i = 0; i < std::min(missing.size(), kMostNamed); ++i) {
    text += (i == 0 ? "" : ", ") + communicator.name_of(missing[i]);
  }
  if (missing.size() > kMostNamed) text += " and the others";
  return text + ". Seen by rank " + std::to_string(communicator.rank()) + " of " +
         communicator.name_of_group();
}

std::string verdict_on(const std::vector<int>& missing, int64_t timeout_ms, bool name_all) {
  const std::string ms = std::to_string(timeout_ms) + " ms";
  if (timeout_ms == 0) {
    return "Rank 0 timed out in monitoredBarrier after " + ms +
           "; not there yet: " + list_of(missing);
  }
  const std::string failed = " failed to pass monitoredBarrier in " + ms;
  if (missing.size() == 1) return "Rank " + list_of(missing) + failed;
  if (name_all) return "Ranks " + list_of(missing) + failed;
  return "Rank " + std::to_string(missing.front()) + failed + ", and so did " +
         list_of({missing.begin() + 1, missing.end()});
}

}  // namespace

void TorchBackend::monitoredBarrier(const c10d::BarrierOptions& opts, bool wait_all_ranks) {
  tell_description();
  const int64_t timeout_ms =
      opts.timeout.count() >= 0 ? opts.timeout.count() : options_.timeout.count();
  const std::string prefix = "monitored_barrier/" + std::to_string(communicator_->id()) + "/" +
                             std::to_string(monitored_barriers_++) + "/";
  translated([&] {
    if (getRank() == 0) {
      await_ranks(prefix, timeout_ms, wait_all_ranks);
    } else {
      await_verdict(prefix, timeout_ms);
    }
  });
}

void TorchBackend::await_ranks(const std::string& prefix, int64_t timeout_ms, bool name_all) {
  const TimeNs deadline = deadline_after_ms(timeout_ms);
  TorchStore store(store_);
  std::vector<int> missing;
  for (int rank = 1; rank < getSize(); ++rank) {
    if (!wait_for(store, prefix + std::to_string(rank), deadline)) missing.push_back(rank);
  }
  std::string verdict;
  if (!missing.empty()) {
    verdict = verdict_on(missing, timeout_ms, name_all) + where_to_look(*communicator_, missing);
  }
  store.set(prefix + "verdict", verdict);
  if (!missing.empty()) raise(timed_out(getRank(), missing.front(), verdict));
}

// Rank 0 writes its verdict when its own time is over, which may be later than ours.
void TorchBackend::await_verdict(const std::string& prefix, int64_t timeout_ms) {
  const TimeNs deadline = deadline_after_ms(timeout_ms);
  TorchStore store(store_);
  store.set(prefix + std::to_string(getRank()), "");
  const auto verdict =
      wait_for(store, prefix + "verdict", deadline == kNever ? kNever : deadline + kSecond);
  if (verdict && verdict->empty()) return;
  const std::string reached =
      "Rank " + std::to_string(getRank()) +
      " successfully reached monitoredBarrier, but received errors while waiting for send/recv "
      "from rank 0: ";
  if (verdict) raise(timed_out(getRank(), kNoRank, reached + *verdict));
  raise(timed_out(getRank(), 0,
                  reached + "Rank 0 timed out in monitoredBarrier in " +
                      std::to_string(timeout_ms) + " ms" + where_to_look(*communicator_, {0})));
}

}  // namespace fastgpu
