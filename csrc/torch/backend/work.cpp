#include "torch/backend/work.h"

#include <ATen/core/ivalue.h>
#include <ATen/core/jit_type.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <utility>

#include "torch/backend/callbacks.h"
#include "torch/backend/devices.h"
#include "torch/backend/errors.h"

namespace fastgpu {
namespace {

using Inputs = std::optional<std::vector<at::Tensor>>;

bool profiling() { return at::hasCallbacks() && at::isRecordFunctionEnabled(); }

c10d::WorkResult result_of(const Failure* failure) {
  if (failure == nullptr) return c10d::WorkResult::SUCCESS;
  return failure->kind == ErrorKind::kTimeout ? c10d::WorkResult::TIMEOUT
                                              : c10d::WorkResult::COMM_ERROR;
}

// The value of a future: the list of outputs or, if `each` is not 0, lists of `each` outputs.
c10::IValue value_of(const std::vector<at::Tensor>& outputs, std::size_t each) {
  if (each == 0) return outputs;
  std::vector<std::vector<at::Tensor>> lists;
  for (auto rest = outputs.begin(); rest != outputs.end(); rest += static_cast<int64_t>(each)) {
    lists.emplace_back(rest, rest + static_cast<int64_t>(each));
  }
  return lists;
}

template <typename Ends>
void order_behind(const Ends& ends, StreamHandle stream) {
  for (const auto& end : ends) end->finish_before(stream);
}

c10::TypePtr future_type(bool of_result, std::size_t each) {
  if (of_result) return c10::IntType::get();
  const c10::TypePtr list = c10::ListType::create(c10::TensorType::get());
  return each == 0 ? list : c10::ListType::create(list);
}

}  // namespace

TorchWork::TorchWork(std::shared_ptr<Communicator> communicator, c10d::OpType type,
                     const char* title, const std::vector<at::Tensor>& inputs)
    : c10d::Work(communicator->rank(), type, profiling() ? title : nullptr,
                 profiling() ? Inputs(inputs) : std::nullopt),
      communicator_(std::move(communicator)) {}

void TorchWork::add(std::shared_ptr<fastgpu::Work> operation) {
  operations_.push_back(std::move(operation));
  sequence_ = communicator_->sequence();
}

void TorchWork::add_end(c10::Device device, std::shared_ptr<DeviceEnd> end) {
  device_ = device;
  ends_.push_back(std::move(end));
}

void TorchWork::absorb(const TorchWork& other) {
  if (other.device_) device_ = other.device_;
  ends_.append(other.ends_.begin(), other.ends_.end());
  operations_.append(other.operations_.begin(), other.operations_.end());
  outputs_.insert(outputs_.end(), other.outputs_.begin(), other.outputs_.end());
  sequence_ = other.sequence_;
}

void TorchWork::seal() {
  if (recordFunctionEndCallback_) when_done(std::exchange(recordFunctionEndCallback_, nullptr));
}

bool TorchWork::is_enqueued() const {
  return std::ranges::all_of(operations_, [](const auto& operation) { return operation->done(); });
}

bool TorchWork::isCompleted() {
  if (!is_enqueued()) return false;
  if (first_failure(operations_) != nullptr) return true;
  return translated([&] {
    return std::ranges::all_of(ends_, [](const auto& end) { return end->has_passed(); });
  });
}

const Failure* TorchWork::first_failure(const Operations& operations) {
  for (const auto& operation : operations) {
    if (operation->done() && !operation->ok()) return &operation->failure();
  }
  return nullptr;
}

bool TorchWork::isSuccess() const {
  return std::ranges::all_of(
      operations_, [](const auto& operation) { return operation->done() && operation->ok(); });
}

std::exception_ptr TorchWork::exception() const {
  const Failure* failure = first_failure(operations_);
  return failure == nullptr ? nullptr : python_exception(*failure);
}

int TorchWork::sourceRank() const {
  return operations_.empty() ? kNoRank : operations_.front()->source();
}

bool TorchWork::wait(std::chrono::milliseconds timeout) {
  const bool limited = timeout.count() > 0;
  const TimeNs deadline = limited ? deadline_after_ms(timeout.count()) : kNever;
  for (const auto& operation : operations_) {
    if (operation->done() && operation->ok()) continue;
    translated([&] {
      const TimeNs left = limited ? std::max<TimeNs>(deadline - now_ns(), 0) : 0;
      const TimeNs left_ms = (left + kMillisecond - 1) / kMillisecond;  // the first one has it all
      communicator_->wait(*operation, limited ? left_ms : -1);
    });
  }
  if (device_) translated([&] { order_behind(ends_, current_stream(*device_)); });
  return true;
}

void TorchWork::abort() {
  translated([&] { communicator_->abort("Work.abort() was called"); });
}

void TorchWork::when_done(std::function<void()> callback) {
  if (operations_.size() == 1) {
    operations_.front()->on_done(std::move(callback));
    return;
  }
  auto pending = std::make_shared<std::atomic<std::size_t>>(operations_.size());
  if (operations_.empty()) callback();
  for (const auto& operation : operations_) {
    operation->on_done([pending, callback] {
      if (pending->fetch_sub(1) == 1) callback();
    });
  }
}

void TorchWork::on_end(std::function<void(const Outcome&)> callback) {
  when_done([callback = std::move(callback), operations = operations_] {
    Outcome outcome{.ok = first_failure(operations) == nullptr};
    for (const auto& operation : operations) outcome.codec_ns += operation->codec_ns();
    callback(outcome);
  });
}

// The future of the outputs or, if `of_result`, of the c10d::WorkResult.
c10::intrusive_ptr<c10::ivalue::Future> TorchWork::future(bool of_result) {
  if (!is_enqueued()) translated([] { CallbackThreads::shared().start(); });
  c10::intrusive_ptr<c10::ivalue::Future> made;
  {
    const std::lock_guard lock(mutex_);
    auto& kept = of_result ? result_future_ : outputs_future_;
    if (kept) return kept;
    kept = c10::make_intrusive<c10::ivalue::Future>(
        future_type(of_result, outputs_each_),
        device_ ? std::vector{*device_} : std::vector<c10::Device>());
    made = kept;
  }
  auto complete = [made, of_result, operations = operations_, outputs = outputs_,
                   each = outputs_each_, device = device_, ends = ends_] {
    const Failure* failure = first_failure(operations);
    if (of_result) {
      made->markCompleted(c10::IValue(static_cast<int64_t>(result_of(failure))));
    } else if (failure == nullptr && device) {
      try {
        with_own_stream(*device, [&](StreamHandle stream) {  // the future's users wait for it
          order_behind(ends, stream);
          made->markCompleted(value_of(outputs, each));
        });
      } catch (const CommError& error) {
        made->setError(python_exception(error.failure()));
      }
    } else if (failure == nullptr) {
      made->markCompleted(value_of(outputs, each));
    } else {
      made->setError(python_exception(*failure));
    }
  };
  if (is_enqueued()) {
    complete();
  } else {
    // `complete` owns tensors, and destroying a tensor may need the GIL. The engine gets a pointer
    // and hands it on, so that the tensors are destroyed on a callback thread.
    auto job = std::make_shared<std::function<void()>>(std::move(complete));
    when_done([job]() mutable {
      CallbackThreads::shared().post([job = std::exchange(job, nullptr)] { (*job)(); });
    });
    // A thread that waits for a future does not poll.
    for (const auto& operation : operations_) communicator_->request_progress(*operation);
  }
  return made;
}

c10::intrusive_ptr<c10::ivalue::Future> TorchWork::getFuture() { return future(false); }

c10::intrusive_ptr<c10::ivalue::Future> TorchWork::getFutureResult() { return future(true); }

}  // namespace fastgpu
