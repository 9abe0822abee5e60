#include "torch/backend/backend.h"

#include <pybind11/pybind11.h>

#include <algorithm>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <utility>

#include "comm/rendezvous_store.h"
#include "comm/runtime.h"
#include "torch/backend/call_builder.h"
#include "torch/backend/errors.h"
#include "torch/backend/store.h"

namespace fastgpu {

TorchBackend::TorchBackend(const StorePtr& store, int rank, int size, const BackendOptions& options)
    : c10d::Backend(rank, size),
      store_(store),
      options_(options),
      last_split_(c10::weak_intrusive_ptr<c10d::Backend>::reclaim(nullptr)) {
  const StoreAddress address = address_of(store);
  TorchStore adapted(store_);
  CommunicatorConfig config;
  config.rank = rank;
  config.world = size;
  config.name = options.group_name;
  config.timeout_ms = options.timeout.count();
  config.store_host = address.host;
  config.store_port = address.port;
  try {
    config.options = options.resolve();
  } catch (const CommError& error) {  // the other ranks must not wait for this one
    RendezvousStore(adapted, rank, size, config.name).report(error.failure());
    throw;
  }
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

void TorchBackend::abort() {
  translated([&] { communicator_->abort("abort() was called on the process group"); });
}

void TorchBackend::shutdown() {
  const bool in_order = communicator_->failure() == nullptr;
  translated([&] { communicator_->shutdown(); });
  // Otherwise a rank that makes its next group at once, on the same port, could meet this store
  // shortly before rank 0 closes it.
  if (options_.store_ends && getRank() != 0 && in_order) await_end_of(store_);
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
  const std::string prefix = "monitored_barrier/" + std::to_string(communicator_->id()) + "/" +
                             std::to_string(monitored_barriers_++) + "/";
  Failure failure;
  failure.kind = ErrorKind::kTimeout;
  failure.rank = getRank();
  failure.op = "monitored_barrier";
  translated([&] {
    TorchStore store(store_);
    if (getRank() != 0) {
      store.set(prefix + std::to_string(getRank()), "");
      // Rank 0 writes its verdict when its own time is over, which may be later than ours.
      const auto verdict = wait_for(store, prefix + "verdict", deadline + kSecond);
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
      if (wait_for(store, prefix + std::to_string(rank), deadline)) continue;
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
