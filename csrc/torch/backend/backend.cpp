#include "torch/backend/backend.h"

#include <pybind11/pybind11.h>

#include <algorithm>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <utility>

#include "comm/runtime.h"
#include "torch/backend/call_builder.h"
#include "torch/backend/errors.h"
#include "torch/backend/store.h"

namespace fastgpu {

TorchBackend::TorchBackend(const StorePtr& store, int rank, int size, const BackendOptions& options)
    : c10d::Backend(rank, size),
      store_(fresh_part(store, rank)),
      options_(options),
      last_split_(c10::weak_intrusive_ptr<c10d::Backend>::reclaim(nullptr)) {
  const StoreAddress address = address_of(store);
  CommunicatorConfig config;
  config.rank = rank;
  config.world = size;
  config.name = options.group_name;
  config.options = options.resolve();
  config.timeout_ms = options.timeout.count();
  config.store_host = address.host;
  config.store_port = address.port;
  TorchStore adapted(store_);
  communicator_ = Communicator::create(config, adapted, Runtime::shared());
}

TorchBackend::~TorchBackend() {
  // shutdown() waits for the engine, and the engine may wait for a thread that needs the GIL to
  // drop a tensor. So this thread must not hold the GIL.
  if (Py_IsInitialized() != 0 && PyGILState_Check() != 0) {
    const pybind11::gil_scoped_release no_gil;
    communicator_->shutdown();
  } else {
    communicator_->shutdown();
  }
}

// Returns a copy, because c10d's splitGroup writes into the result.
c10::intrusive_ptr<c10d::Backend::Options> TorchBackend::getBackendOptions() {
  return c10::make_intrusive<BackendOptions>(options_);
}

void TorchBackend::setTimeout(std::chrono::milliseconds timeout) {
  options_.timeout = timeout;
  communicator_->set_timeout_ms(timeout.count());
}

void TorchBackend::startTimeEstimate() {
  if (!estimate_.start()) {
    raise_invalid("start_time_estimate", "an estimate has started already; end it first");
  }
}

float TorchBackend::endTimeEstimate() {
  double total_us = 0;
  if (!estimate_.end(total_us)) {
    raise_invalid("end_time_estimate", "this thread has not started an estimate; start one first");
  }
  return static_cast<float>(total_us);
}

void TorchBackend::abort() {
  hooks_->before_abort();
  translated([&] { communicator_->abort("abort() was called on the process group"); });
}

void TorchBackend::shutdown() {
  translated([&] { communicator_->shutdown(); });
}

c10d::ErrorType TorchBackend::getError() {
  const auto failure = communicator_->failure();
  if (!failure) return c10d::ErrorType::SUCCESS;
  if (failure->kind == ErrorKind::kTimeout) return c10d::ErrorType::TIMEOUT;
  if (failure->kind == ErrorKind::kPeerLost) return c10d::ErrorType::REMOTE_ERROR;
  return c10d::ErrorType::COMM_ERROR;
}

void TorchBackend::startCoalescing() {
  if (coalescing_.load()) {
    raise_invalid("start_coalescing", "coalescing has started already; call end_coalescing first");
  }
  coalesced_ = c10::make_intrusive<TorchWork>(communicator_, c10d::OpType::COALESCED,
                                              "fastgpu:coalesced", TensorList());
  coalescing_thread_ = std::this_thread::get_id();
  coalescing_.store(true);
}

void TorchBackend::record(const TorchWork& work) {
  if (coalescing_.load(std::memory_order_relaxed) &&
      coalescing_thread_ == std::this_thread::get_id()) {
    coalesced_->absorb(work);
  }
}

TorchBackend::WorkPtr TorchBackend::endCoalescing() {
  if (!coalescing_.exchange(false)) {
    raise_invalid("end_coalescing", "coalescing has not started; call start_coalescing first");
  }
  coalesced_->seal();
  return std::exchange(coalesced_, nullptr);
}

c10::intrusive_ptr<c10d::Backend> TorchBackend::split(
    const StorePtr& store, const std::vector<int>& ranks,
    const c10::intrusive_ptr<c10d::Backend::Options>& opts) {
  if (store == last_split_store_) {
    if (auto same = last_split_.lock()) return same;
  }
  ++split_count_;
  const auto place = std::ranges::find(ranks, getRank());
  if (place == ranks.end()) return nullptr;
  const auto* own = dynamic_cast<const BackendOptions*>(opts.get());
  BackendOptions options = own != nullptr ? *own : options_;
  if (opts) {
    options.timeout = opts->timeout;
    options.group_name = opts->group_name;
  }
  options.global_ranks_in_group.clear();
  for (const int rank : ranks) {
    const auto& parents = options_.global_ranks_in_group;
    const auto index = static_cast<std::size_t>(rank);
    options.global_ranks_in_group.push_back(index < parents.size() ? parents[index] : index);
  }
  const auto rank = static_cast<int>(place - ranks.begin());
  c10::intrusive_ptr<c10d::Backend> child = translated([&] {
    return c10::make_intrusive<TorchBackend>(store, rank, static_cast<int>(ranks.size()), options);
  });
  last_split_store_ = store;
  last_split_ = c10::weak_intrusive_ptr<c10d::Backend>(child);
  return child;
}

TorchBackend::WorkPtr TorchBackend::barrier(const c10d::BarrierOptions& opts) {
  CallBuilder builder(*this, {c10d::OpType::BARRIER, "fastgpu:barrier"}, {}, opts);
  builder.run(builder.call(Collective::kBarrier, {}));
  return builder.finish({});
}

// Uses the store only, so that it works when the channels do not: every rank writes a key; rank 0
// waits for all keys and writes the names of the ranks that are missing.
void TorchBackend::monitoredBarrier(const c10d::BarrierOptions& opts, bool /*wait_all_ranks*/) {
  const int64_t timeout_ms =
      opts.timeout.count() > 0 ? opts.timeout.count() : options_.timeout.count();
  const TimeNs deadline = deadline_after_ms(timeout_ms);
  const std::string within = " in " + std::to_string(timeout_ms) + " ms";
  const std::string prefix = "monitored_barrier/" + std::to_string(monitored_barriers_++) + "/";
  Failure failure;
  failure.kind = ErrorKind::kTimeout;
  failure.rank = getRank();
  failure.op = "monitored_barrier";
  translated([&] {
    TorchStore store(store_);
    if (getRank() != 0) {
      store.set(prefix + std::to_string(getRank()), "");
      // Rank 0 writes its verdict when its own time is over, which may be later than ours.
      const auto verdict = store.try_get(prefix + "verdict", deadline + kSecond);
      if (verdict && verdict->empty()) return;
      failure.peer = verdict ? kNoRank : 0;
      failure.message = verdict
                            ? *verdict
                            : "Rank 0 timed out in monitoredBarrier" + within + "; look at its log";
      raise(failure);
    }
    std::string missing;
    int count = 0;
    for (int rank = 1; rank < getSize(); ++rank) {
      if (store.try_get(prefix + std::to_string(rank), deadline)) continue;
      missing += (count++ == 0 ? "" : ", ") + std::to_string(rank);
      if (count == 1) failure.peer = rank;
    }
    if (count != 0) {
      failure.message = (count == 1 ? "Rank " : "Ranks ") + missing +
                        " failed to pass monitoredBarrier" + within +
                        (count == 1 ? "; look at its log" : "; look at their logs");
    }
    store.set(prefix + "verdict", failure.message);
    if (count != 0) raise(failure);
  });
}

}  // namespace fastgpu
