#include "torch/backend/call_builder.h"

#include <cstring>

#include "comm/windows.h"
#include "torch/backend/backend.h"
#include "torch/backend/devices.h"
#include "torch/backend/errors.h"

namespace fastgpu {

CallBuilder::CallBuilder(TorchBackend& backend, const OperationName& operation,
                         const TensorList& inputs)
    : backend_(backend),
      op_(operation.name()),
      work_(c10::make_intrusive<TorchWork>(backend.communicator(), operation.type, operation.title,
                                           inputs)) {
  backend.tell_description();
  set_timeout_ms(backend.communicator()->timeout_ms());
}

void CallBuilder::set_timeout_ms(int64_t timeout_ms) {
  timeout_ms_ = timeout_ms + backend_.extra_time()->active_ms();
  work_->set_timeout_ms(timeout_ms_);
}

CollectiveCall CallBuilder::call(Collective collective, const Elements& elements) const {
  CollectiveCall call;
  call.shape.collective = collective;
  call.shape.dtype = elements.dtype;
  call.shape.count = elements.count;
  call.timeout_ms = timeout_ms_;
  call.synchronous = synchronous_;
  return call;
}

CollectiveCall CallBuilder::reduction(Collective collective, const Elements& elements,
                                      const c10d::ReduceOp& reduce_op) const {
  const ScaledReduceOp reduction = reduction_of(op_, reduce_op);
  CollectiveCall made = call(collective, elements);
  made.shape.reduce_op = reduction.op;
  made.premul_factor = reduction.premul_factor;
  return made;
}

PackedTensors& CallBuilder::packed() {
  if (packed_ == nullptr) packed_ = std::make_shared<PackedTensors>(op_, *backend_.communicator());
  return *packed_;
}

std::shared_ptr<PackedTensors> CallBuilder::take_packed() {
  packed();
  return std::exchange(packed_, nullptr);
}

template <typename Begin>
void CallBuilder::add(Begin begin) {
  try {
    work_->add(begin());
  } catch (const CommError& error) {
    Failure failure = error.failure();
    if (failure.op.empty()) failure.op = op_;
    if (failure.rank == kNoRank) failure.rank = backend_.getRank();
    if (failure.kind != ErrorKind::kInvalidArgument) backend_.hooks()->before_abort();
    raise_in_python(failure);
  }
}

template <typename Call>
void CallBuilder::place(Call& call, const PackedTensors& packed) {
  if (!packed.device()) return;
  call.stream = current_stream(*packed.device());
  call.device_end = std::make_shared<DeviceEnd>();
  work_->add_end(*packed.device(), call.device_end);
}

void CallBuilder::run(CollectiveCall call) {
  if (backend_.estimate().of_this_thread()) {
    backend_.estimate().add(backend_.communicator()->predict_us(call));
    return packed_.reset();
  }
  const std::shared_ptr<PackedTensors> owner = take_packed();
  PackedTensors* const packed = owner.get();  // call.keep_alive keeps it for the lambdas
  if (packed->packs()) call.prologue = [packed] { packed->pack(); };
  if (packed->unpacks()) call.epilogue = [packed] { packed->unpack(); };
  place(call, *packed);
  call.keep_alive = owner;
  if (collects_) {
    collected_.push_back(std::move(call));
  } else {
    start(std::move(call));
  }
}

void CallBuilder::start(CollectiveCall call) {
  add([&] { return backend_.communicator()->run(std::move(call)); });
}

MessageCall CallBuilder::message(int peer, uint32_t tag) const {
  MessageCall call;
  call.peer = peer;
  call.tag = tag;
  call.timeout_ms = timeout_ms_;
  call.synchronous = synchronous_;
  return call;
}

MessageCall CallBuilder::message(int peer, int tag, const at::Tensor& tensor) const {
  if (tag < 0) raise_invalid(op_, "tag " + std::to_string(tag) + " is negative; use 0 or more");
  MessageCall call = message(peer, static_cast<uint32_t>(tag));
  call.dtype = elements_of(tensor).dtype;
  call.size_bytes = static_cast<uint64_t>(tensor.numel()) * tensor.element_size();
  return call;
}

bool CallBuilder::estimated(const MessageCall& call) {
  if (!backend_.estimate().of_this_thread()) return false;
  backend_.estimate().add(backend_.communicator()->predict_us(call));
  return true;
}

void CallBuilder::send(int peer, int tag, const at::Tensor& tensor) {
  MessageCall call = message(peer, tag, tensor);
  if (estimated(call)) return;
  const std::shared_ptr<PackedTensors> packed = take_packed();
  call.data = const_cast<std::byte*>(packed->read(tensor));
  place(call, *packed);
  packed->pack();
  call.keep_alive = packed;
  add([&] { return backend_.communicator()->send(std::move(call)); });
}

void CallBuilder::recv(int peer, int tag, const at::Tensor& tensor) {
  MessageCall call = message(peer, tag, tensor);
  if (estimated(call)) return;
  const std::shared_ptr<PackedTensors> owner = take_packed();
  PackedTensors* const packed = owner.get();
  call.data = packed->write(tensor);
  if (packed->unpacks()) call.epilogue = [packed] { packed->unpack(); };
  place(call, *packed);
  call.keep_alive = owner;
  add([&] { return backend_.communicator()->recv(std::move(call)); });
}

void CallBuilder::put(const PutTarget& target, const at::Tensor& tensor) {
  MessageCall call = message(target.peer, 0, tensor);
  call.tag = target.window;
  call.put_offset_bytes = target.offset_bytes;
  call.op = op_;
  if (estimated(call)) return;
  const std::shared_ptr<PackedTensors> packed = take_packed();
  call.data = const_cast<std::byte*>(packed->read(tensor));
  packed->pack();
  call.keep_alive = packed;
  add([&] {
    Communicator& communicator = *backend_.communicator();
    if (target.memory == nullptr) return communicator.send(std::move(call));
    communicator.windows().check_peer(target.peer, op_);
    std::memmove(target.memory, call.data, call.size_bytes);
    return done_work();
  });
}

void CallBuilder::signal(int peer, uint32_t tag) {
  MessageCall call = message(peer, tag);
  call.op = op_;
  if (!estimated(call)) add([&] { return backend_.communicator()->send(std::move(call)); });
}

void CallBuilder::await_signal(int peer, uint32_t tag) {
  MessageCall call = message(peer, tag);
  call.op = op_;
  if (!estimated(call)) add([&] { return backend_.communicator()->recv(std::move(call)); });
}

void CallBuilder::perform(const std::function<void()>& body) {
  if (backend_.estimate().of_this_thread()) return;
  add([&] {
    body();
    return done_work();
  });
}

c10::intrusive_ptr<c10d::Work> CallBuilder::finish(TensorList outputs) {
  for (CollectiveCall& call : collected_) start(std::move(call));
  work_->set_outputs(std::move(outputs));
  work_->seal();
  backend_.hooks()->watch(*work_);
  if (const int64_t taken_ms = backend_.extra_time()->take(); taken_ms != 0) {
    work_->on_end([extra = backend_.extra_time(), taken_ms](const TorchWork::Outcome&) {
      extra->give_back(taken_ms);
    });
  }
  backend_.record(*work_);
  return std::move(work_);
}

c10::intrusive_ptr<c10d::Work> CallBuilder::finish_lists(const std::vector<TensorList>& lists) {
  TensorList outputs;
  for (const TensorList& list : lists) outputs.insert(outputs.end(), list.begin(), list.end());
  work_->set_future_lists(lists.front().size());
  return finish(std::move(outputs));
}

}  // namespace fastgpu
