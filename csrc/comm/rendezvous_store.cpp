#include "comm/rendezvous_store.h"

#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "comm/failure_report.h"

namespace fastgpu {
namespace {

std::string failed_key(int64_t use) { return "fastgpu/" + std::to_string(use) + "/failed"; }

}  // namespace

RendezvousStore::RendezvousStore(Store& store, int rank, int world, std::string group)
    : store_(store),
      rank_(rank),
      world_(world),
      group_(std::move(group)),
      use_(store.add("fastgpu/uses/" + std::to_string(rank))) {
  if (use_ > 1) find_predecessor();
}

std::string RendezvousStore::key(int64_t use, const char* what, int rank) const {
  return "fastgpu/" + std::to_string(use) + "/" + what + "/" + std::to_string(rank);
}

void RendezvousStore::set(const char* what, const std::string& value) {
  store_.set(key(use_, what, rank_), value);
}

std::optional<std::string> RendezvousStore::wait(const char* what, int rank, TimeNs deadline) {
  return wait_for(store_, key(use_, what, rank), deadline, [this] {
    if (const auto failure = reported()) raise(*failure);
  });
}

// The earlier use has ended if every rank has all its values; a report then has no reader. A
// process that still waits there has the same rank as this process: a duplicate.
void RendezvousStore::find_predecessor() {
  const ProcessName mine = this_process();
  std::string reason = "it has given up this attempt and begun another";
  if (const auto text = store_.try_get(key(use_ - 1, "rank", rank_))) {
    const PeerRecord before = record_from_text(*text);
    if (before.host != mine.host || before.pid != mine.pid) {
      predecessor_ = before;
      reason = "two processes have this rank: " + to_string(before) + ", and " + to_string(mine) +
               "; give each process a rank of its own";
    }
  }
  publish(use_ - 1, make_failure(ErrorKind::kRendezvous, reason));
}

// The first failure counts: later ones are often consequences.
void RendezvousStore::publish(int64_t use, const Failure& failure) {
  const std::string place = failed_key(use);
  if (store_.try_get(place)) return;
  SetUpFailure told;
  static_cast<ProcessName&>(told) = this_process();
  told.rank = rank_;
  told.kind = failure.kind;
  told.reason = failure.message;
  store_.set(place, to_text(told));
}

std::optional<Failure> RendezvousStore::reported() {
  const auto text = store_.try_get(failed_key(use_));
  if (!text) return std::nullopt;
  const SetUpFailure told = set_up_failure_from_text(*text);
  // The process that has joined as this rank waits in the next use of the store.
  if (told.rank == rank_) publish(use_ + 1, make_failure(told.kind, told.reason));
  Failure failure;
  // The other rank's arguments are not this rank's.
  failure.kind = told.kind == ErrorKind::kInvalidArgument ? ErrorKind::kRendezvous : told.kind;
  failure.peer = told.rank;
  failure.message = told.reason;
  if (!names_observer(told.reason)) {  // the rank's own error
    failure.message = name_of_rank(told.rank, told) + " could not set up the group: " + told.reason;
    failure.message = with_set_up_advice(report_of(failure, rank_, "group '" + group_ + "'"));
  }
  return failure;
}

Failure RendezvousStore::report(const Failure& failure, TimeNs limit,
                                const std::function<void()>& leave) noexcept {
  Failure first = failure;
  try {
    if (failure.kind == ErrorKind::kPeerLost) {
      wait_for(store_, failed_key(use_), now_ns() + limit);
      first = reported().value_or(failure);
    }
    publish(use_, failure);
    set("heard", "");
    if (leave) leave();
    const TimeNs deadline = now_ns() + limit;
    for (int peer = 0; peer < world_; ++peer) {
      const bool waits = rank_ == 0 || store_.try_get(key(use_, "rank", peer));
      if (peer == rank_ || !waits) continue;
      wait_for(store_, key(use_, "heard", peer), deadline);
    }
  } catch (const CommError& error) {  // the store is lost; the caller raises its own error
    log(LogLevel::kInfo, "failure_not_reported", "reason=" + in_quotes(error.what()));
  }
  return first;
}

}  // namespace fastgpu
