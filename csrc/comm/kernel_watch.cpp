#include "comm/kernel_watch.h"

#include <algorithm>
#include <exception>
#include <utility>

namespace fastgpu {
namespace {

// How long to wait for the peer that has stopped the kernels to report its failure.
constexpr TimeNs kReportLimit = 2 * kSecond;
// How often to check whether a peer's host drives a call that a kernel runs here.
constexpr TimeNs kMismatchCheckInterval = kSecond / 5;

Failure lost(int peer) {
  return make_failure(ErrorKind::kPeerLost,
                      "the connection to rank " + std::to_string(peer) + " is closed", peer);
}

}  // namespace

void KernelWatch::add(LaunchedKernel kernel) {
  if (launched_.empty()) next_mismatch_check_.store(now_ns() + kMismatchCheckInterval);
  launched_.push_back(std::move(kernel));
  pending_.fetch_add(1);
  try {
    executor_.when_passed([this] {
      latch_failure_of([&] { report_end_of(launched_.front()); });
      launched_.pop_front();
      pending_.fetch_sub(1);
    });
  } catch (...) {
    launched_.pop_back();
    pending_.fetch_sub(1);
    throw;
  }
}

// Reports the first kernel that has ended by a failure; all later ones end by the same.
void KernelWatch::report_end_of(const LaunchedKernel& kernel) {
  LaneMemory& memory = *memory_.load();
  const uint64_t end = memory.ended(kernel.end);
  if (end == 0 || latch_->failure() != nullptr || stopped_since_.load() != 0) return;
  const device::Control record = memory.failure_record();
  const auto point = __builtin_bit_cast(device::FailurePoint, record.failure);
  if (point.code == device::FailureCode::kNone) {  // a peer stopped it, and will report why
    stopped_by_.store(static_cast<int>(end >> 8) - 1);
    stopped_since_.store(now_ns());
  } else if (point.code != device::FailureCode::kStopped) {  // not by stop()
    latch_->report(failure_of(kernel, record));
  }
}

Failure KernelWatch::failure_of(const LaunchedKernel& kernel, const device::Control& record) const {
  const auto point = __builtin_bit_cast(device::FailurePoint, record.failure);
  const std::string peer = "rank " + std::to_string(point.peer);
  const bool is_in_graph = kernel.end == LaneMemory::kEndInGraphs;
  const std::string mine = is_in_graph ? "a collective of a graph" : describe(kernel.call);
  Failure failure;
  if (point.code == device::FailureCode::kTimeout) {
    failure = make_failure(ErrorKind::kTimeout,
                           (is_in_graph ? "Timed out: " : timed_out_after(kernel.timeout_ns)) +
                               mine + " waited for " + peer +
                               ", whose GPU has not come to it, or waits for another rank itself");
  } else if (point.code == device::FailureCode::kDeparted) {
    failure = lost(point.peer);
  } else {
    const std::string theirs = describe({record.theirs[0], record.theirs[1]});
    failure = mismatch_of(point.peer, theirs, ranks_.mine, mine);
  }
  failure.peer = point.peer;
  failure.op = kernel.op;
  failure.sequence = kernel.sequence;
  return failure;
}

// A call that the host drives receives its frames before the queue comes to the next call. So the
// frame at the front of a channel belongs to a kernel's call, or to a later one.
std::optional<Failure> KernelWatch::find_mismatch() {
  for (int peer = 0; peer < ranks_.world; ++peer) {
    for (int lane = 0; peer != ranks_.mine && lane < ranks_.lanes; ++lane) {
      FrameHeader header;
      if (channels_.receiver(peer, lane)->peek(header) != Io::kMoved) continue;
      const auto kernel = std::ranges::find(launched_, static_cast<int64_t>(header.sequence),
                                            &LaunchedKernel::sequence);
      if (kernel == launched_.end()) continue;
      Failure failure =
          mismatch_of(peer, describe(header.key), ranks_.mine, describe(kernel->call));
      failure.op = kernel->op;
      failure.sequence = kernel->sequence;
      return failure;
    }
  }
  return std::nullopt;
}

// A failed check fails the communicator, too.
template <typename Check>
void KernelWatch::latch_failure_of(Check check) noexcept {
  try {
    check();
  } catch (const CommError& error) {
    latch_->report(error.failure());
  } catch (const std::exception& error) {
    latch_->report(make_failure(
        ErrorKind::kAborted,
        std::string("the watch of the kernels met an unexpected error: ") + error.what()));
  }
}

void KernelWatch::stop() noexcept {
  if (LaneMemory* const memory = memory_.load()) memory->stop();
}

// DeviceChannels::poll() runs the callbacks that add() registers.
bool KernelWatch::poll() noexcept {
  LaneMemory* const memory = memory_.load();
  if (memory == nullptr) return false;
  if (latch_->failure() != nullptr) {
    if (!has_stopped_.exchange(true)) stop();
    return false;
  }
  if (expects_replays_.load()) {
    latch_failure_of([&] { report_end_of({.call = {}, .op = "a collective of a graph"}); });
  }
  for (int peer = 0; wants_idle_poll() && peer < ranks_.world; ++peer) {
    // Not departed(), which is for a peer whose channel is closed: it gives up on that peer after
    // a while.
    if (peer == ranks_.mine || channels_.presence(peer) == Presence::kHere) continue;
    memory->peer_left(peer);
    // A peer that has stopped the kernels and left will not report why.
    const bool stopped = stopped_since_.load() != 0 && stopped_by_.load() == peer;
    if (stopped) latch_failure_of([&] { latch_->report(lost(peer)); });
  }
  return false;
}

TimeNs KernelWatch::next_deadline() const noexcept {
  if (has_stopped_.load()) return kNever;
  const TimeNs since = stopped_since_.load();
  return since == 0 ? next_mismatch_check_.load() : since + kReportLimit;
}

void KernelWatch::expire(TimeNs now) noexcept {
  if (now < next_deadline() || latch_->failure() != nullptr) return;
  latch_failure_of([&] {
    if (stopped_since_.load() != 0) return latch_->report(failure_of_silent_peer());
    next_mismatch_check_.store(launched_.empty() ? kNever : now + kMismatchCheckInterval);
    if (auto failure = find_mismatch()) latch_->report(std::move(*failure));
  });
}

Failure KernelWatch::failure_of_silent_peer() const {
  const int rank = stopped_by_.load();
  return make_failure(
      ErrorKind::kAborted,
      "rank " + std::to_string(rank) + " has stopped the kernels of all ranks, and not said why",
      rank);
}

}  // namespace fastgpu
