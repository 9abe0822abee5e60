#include "torch/backend/backend.h"

#include <ATen/ops/empty.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <utility>

#include "comm/rendezvous_store.h"
#include "comm/runtime.h"
#include "torch/backend/call_builder.h"
#include "torch/backend/errors.h"
#include "torch/backend/store.h"
#include "torch/backend/symmetric_tensor.h"

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
  for (const uint64_t global : options.global_ranks_in_group) {
    config.global_ranks.push_back(static_cast<int>(global));
  }
  config.timeout_ms = options.timeout.count();
  config.store_host = address.host;
  config.store_port = address.port;
  Runtime* runtime = nullptr;
  try {
    config.options = options.resolve();
    codec_ = config.options.codec;
    runtime = &Runtime::shared();
  } catch (const CommError& error) {  // tell the waiting ranks
    RendezvousStore(adapted, rank, size, config.name).report(error.failure());
    throw;
  }
  communicator_ = Communicator::create(config, adapted, *runtime);
  if (options_.store_ends && rank != 0) tell_that_read(store_, rank);
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

void TorchBackend::tell_new_description() {
  const std::string& description = getGroupDesc();
  if (description.empty()) return;
  if (description != "undefined") communicator_->set_description(description);
  description_told_.store(true);
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
  const std::string why = "abort() was called on the process group" + and_what_python_handles();
  translated([&] { communicator_->abort(why); });
}

void TorchBackend::shutdown() {
  const bool in_order = communicator_->failure() == nullptr;
  const std::string handled = and_what_python_handles();
  translated([&] {
    // Rank 0 ends the store with the group, and others may still read it.
    if (options_.store_ends && getRank() == 0 && in_order) await_readers(store_, getSize());
    communicator_->shutdown("it destroyed its process group" + handled, !handled.empty());
  });
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

// Falls back on ordinary memory: a limit on files must not keep torch's own class from training.
// torch's Reducer asks for a bucket of complex numbers, and then uses it as one of real numbers.
at::Tensor TorchBackend::allocateTensor(long size, at::TensorOptions options) {
  const at::ScalarType dtype = c10::typeMetaToScalarType(options.dtype());
  const int64_t count = c10::isComplexType(dtype) ? 2 * size : size;
  const at::ScalarType real = c10::toRealValueType(dtype);
  try {
    if (options.device().is_cpu()) return symmetric_tensor({count}, real);
    return device_tensor({count}, real, options.device());
  } catch (const CommError&) {
    return at::empty({count}, options.dtype(real));
  }
}

TorchBackend::WorkPtr TorchBackend::barrier(const c10d::BarrierOptions& opts) {
  CallBuilder builder(*this, {c10d::OpType::BARRIER, "fastgpu:barrier"}, {}, opts);
  builder.run(builder.call(Collective::kBarrier, {}));
  return builder.finish({});
}

}  // namespace fastgpu
