#include "torch/backend/window.h"

#if FASTGPU_TORCH_SINCE(14)

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <array>
#include <exception>
#include <utility>

#include "base/page.h"
#include "comm/runtime.h"
#include "comm/windows.h"
#include "torch/backend/errors.h"

namespace fastgpu {
namespace {

constexpr std::size_t kMostDims = 16;
constexpr int64_t kNoSegment = -1;

// torch's own tags have 31 bits. Each window has two tags of 32.
constexpr uint32_t kWindowTags = uint32_t{1} << 31;
uint32_t signal_tag(uint32_t window) { return kWindowTags | 2 * window; }
uint32_t set_up_tag(uint32_t window) { return signal_tag(window) + 1; }

// c10d's option structs for windows lack asyncOp.
struct WindowOptions {
  std::chrono::milliseconds timeout;
  bool asyncOp;  // NOLINT(readability-identifier-naming): c10d's name
};

void wait_for_all(Communicator& communicator, const std::vector<std::shared_ptr<Work>>& works) {
  for (const auto& work : works) communicator.wait(*work, -1);
}

// Without `async` the call has ended, and raises its error, before it returns.
c10::intrusive_ptr<c10d::Work> finish(CallBuilder& call, bool async) {
  auto work = call.finish({});
  if (!async) work->wait();
  return work;
}

std::string elements(int64_t count) {
  return std::to_string(count) + (count == 1 ? " element" : " elements");
}

}  // namespace

// A rank's description of its tensor. The ranks exchange it as bytes (docs/wire.md).
struct TorchWindow::Record {
  int64_t valid = 0;  // 1: the rank has a tensor to register
  int64_t window = 0;
  int64_t segment = kNoSegment;
  int64_t offset_bytes = 0;
  int64_t dtype = 0;
  int64_t dims = 0;
  std::array<int64_t, kMostDims> sizes{};
};

TorchWindow::TorchWindow(c10::intrusive_ptr<TorchBackend> backend, uint32_t number)
    : backend_(std::move(backend)), number_(number) {}

TorchWindow::~TorchWindow() {
  if (parts_.empty()) return;
  const Part& mine = parts_[static_cast<std::size_t>(rank())];
  communicator().windows().close(number_);
  if (mine.span) Runtime::shared().heap().revoke(mine.memory.get());
}

CallBuilder TorchWindow::builder(const char* title, std::chrono::milliseconds timeout, bool async,
                                 const TensorList& inputs) const {
  return {*backend_, {c10d::OpType::UNKNOWN, title}, inputs, WindowOptions{timeout, async}};
}

TorchWindow::Record TorchWindow::record_of(const at::Tensor& tensor) const {
  const std::string op = "tensor_register";
  check_dense_cpu(op, tensor);
  if (!tensor.is_contiguous()) {
    raise_invalid(op, "the tensor is not contiguous; register a contiguous one");
  }
  if (static_cast<std::size_t>(tensor.dim()) > kMostDims) {
    raise_invalid(op, "the tensor has " + std::to_string(tensor.dim()) +
                          " dimensions, and a window has at most " + std::to_string(kMostDims) +
                          "; register tensor.view(-1)");
  }
  Record record;
  record.valid = 1;
  record.window = number_;
  record.dtype = static_cast<int64_t>(tensor.scalar_type());
  record.dims = tensor.dim();
  std::ranges::copy(tensor.sizes(), record.sizes.begin());
  const auto* const memory = static_cast<const std::byte*>(tensor.const_data_ptr());
  if (tensor.numel() == 0) return record;
  if (const auto span = Runtime::shared().heap().find(memory, tensor.nbytes())) {
    record.segment = span->segment;
    record.offset_bytes = static_cast<int64_t>(span->offset_bytes);
  }
  return record;
}

TorchWindow::Part TorchWindow::part_of(const Record& record, int rank) {
  constexpr auto kDtypes = static_cast<int64_t>(at::ScalarType::NumOptions);
  constexpr auto kDims = static_cast<int64_t>(kMostDims);
  bool valid = record.dtype >= 0 && record.dtype < kDtypes && record.dims >= 0 &&
               record.dims <= kDims && record.segment >= kNoSegment &&
               record.segment <= UINT32_MAX && record.offset_bytes >= 0;
  Part part;
  part.count = 1;
  for (int64_t i = 0; valid && i < record.dims; ++i) {
    part.sizes.push_back(record.sizes[static_cast<std::size_t>(i)]);
    valid = part.sizes.back() >= 0 &&
            !__builtin_mul_overflow(part.count, part.sizes.back(), &part.count);
  }
  if (valid) part.dtype = static_cast<at::ScalarType>(record.dtype);
  int64_t size_bytes = 0;
  valid = valid && !__builtin_mul_overflow(
                       part.count, static_cast<int64_t>(c10::elementSize(part.dtype)), &size_bytes);
  if (!valid) {
    raise(make_failure(ErrorKind::kPeerLost,
                       "rank " + std::to_string(rank) +
                           " described its tensor in a way that makes no sense; its process is "
                           "broken, restart the job",
                       rank));
  }
  if (record.segment != kNoSegment) {
    part.span = SegmentSpan{.segment = static_cast<uint32_t>(record.segment),
                            .offset_bytes = static_cast<uint64_t>(record.offset_bytes)};
  }
  return part;
}

// Every rank takes part, also one with a bad argument, so that none waits in vain.
std::vector<TorchWindow::Record> TorchWindow::exchange(const Record& mine) const {
  std::vector<Record> records(static_cast<std::size_t>(backend_->getSize()));
  CollectiveCall call;
  call.shape.collective = Collective::kAllGather;
  call.shape.dtype = DType::kUInt8;
  call.shape.count = sizeof(Record);
  call.op = "tensor_register";
  call.input = reinterpret_cast<const std::byte*>(&mine);
  call.data = reinterpret_cast<std::byte*>(records.data());
  communicator().wait(*communicator().run(std::move(call)), -1);
  return records;
}

void TorchWindow::check(const std::vector<Record>& records, const std::string& op) const {
  for (std::size_t peer = 0; peer < records.size(); ++peer) {
    const std::string name = communicator().name_of(static_cast<int>(peer));
    if (records[peer].valid != 1) {
      raise_invalid(op, name +
                            " gave a tensor that cannot be registered, and so no rank has "
                            "registered one; its own error says what to change");
    }
    if (records[peer].window != number_) {
      raise_invalid(op, name + " registered with its window " +
                            std::to_string(records[peer].window) + ", and this rank with window " +
                            std::to_string(number_) +
                            "; make and register windows in the same order on every rank");
    }
  }
}

void TorchWindow::tensor_register(const at::Tensor& tensor, bool owning) {
  const std::string op = "tensor_register";
  if (!parts_.empty()) {
    raise_invalid(op, "the window has a tensor already; call tensor_deregister() on every rank");
  }
  if (backend_->estimate().of_this_thread()) {
    raise_invalid(op,
                  "windows cannot be set up while time is estimated; register the tensor first");
  }
  Record mine;
  std::exception_ptr bad_argument;
  std::shared_ptr<std::byte> memory;
  Windows& windows = communicator().windows();
  try {
    mine = record_of(tensor);
    std::shared_ptr<void> owner;
    if (owning) owner = std::make_shared<c10::Storage>(tensor.storage());
    memory = {owner, static_cast<std::byte*>(tensor.mutable_data_ptr())};
    windows.open(number_,
                 {.data = memory.get(), .size_bytes = tensor.nbytes(), .keep_alive = owner});
  } catch (...) {
    bad_argument = std::current_exception();
  }
  try {
    CallBuilder call = builder("fastgpu:tensor_register", c10d::kUnsetTimeout, false);
    call.perform([&] {
      const std::vector<Record> records = exchange(mine);
      if (bad_argument) std::rethrow_exception(bad_argument);
      check(records, op);
      for (int peer = 0; peer < backend_->getSize(); ++peer) {
        parts_.push_back(part_of(records[static_cast<std::size_t>(peer)], peer));
      }
      parts_[static_cast<std::size_t>(rank())].memory = memory;
      map_parts();
    });
  } catch (...) {
    windows.close(number_);
    parts_.clear();
    throw;
  }
}

// A rank sends one page of its tensor to each peer of its host by reference, and with it the
// descriptor of the segment. Then the peer can map the tensor.
void TorchWindow::map_parts() {
  const Part& mine = parts_[static_cast<std::size_t>(rank())];
  const Windows& windows = communicator().windows();
  std::vector<std::shared_ptr<Work>> works;
  for (int peer = 0; peer < backend_->getSize(); ++peer) {
    if (peer == rank() || !windows.shares_memory_with(peer)) continue;
    MessageCall call;
    call.peer = peer;
    call.tag = set_up_tag(number_);
    call.op = "tensor_register";
    call.size_bytes = page_bytes();
    call.synchronous = false;
    if (mine.span) {
      call.data = mine.memory.get() - mine.span->offset_bytes % page_bytes();
      works.push_back(communicator().send(call));
    }
    if (parts_[static_cast<std::size_t>(peer)].span) {
      const auto scratch = std::make_shared<std::vector<std::byte>>(page_bytes());
      call.data = scratch->data();
      call.keep_alive = scratch;
      works.push_back(communicator().recv(call));
    }
  }
  wait_for_all(communicator(), works);
  for (int peer = 0; peer < backend_->getSize(); ++peer) {
    Part& part = parts_[static_cast<std::size_t>(peer)];
    if (peer == rank() || !windows.shares_memory_with(peer) || !part.span) continue;
    part.memory = windows.map(peer, *part.span, part.size_bytes());
  }
}

// Messages to a peer keep their order, so afterwards all puts of all ranks have arrived.
void TorchWindow::fence() {
  std::vector<std::shared_ptr<Work>> works;
  for (int peer = 0; peer < backend_->getSize(); ++peer) {
    if (peer == rank()) continue;
    MessageCall call;
    call.peer = peer;
    call.tag = set_up_tag(number_);
    call.op = "tensor_deregister";
    call.synchronous = false;
    works.push_back(communicator().send(call));
    works.push_back(communicator().recv(call));
  }
  wait_for_all(communicator(), works);
}

void TorchWindow::tensor_deregister() {
  check_registered("tensor_deregister");
  CallBuilder call = builder("fastgpu:tensor_deregister", c10d::kUnsetTimeout, false);
  call.perform([&] { fence(); });
  communicator().windows().close(number_);
  parts_.clear();
}

void TorchWindow::check_registered(const std::string& op) const {
  if (!parts_.empty()) return;
  raise_invalid(op, "the window has no tensor; call tensor_register() on every rank first");
}

const TorchWindow::Part& TorchWindow::part(const std::string& op, int64_t peer) const {
  check_registered(op);
  const int world = backend_->getSize();
  if (peer < 0 || peer >= world) {
    raise_invalid(op, "rank " + std::to_string(peer) +
                          " is not in this group; its ranks are 0 to " + std::to_string(world - 1));
  }
  return parts_[static_cast<std::size_t>(peer)];
}

TorchWindow::WorkPtr TorchWindow::put(const at::Tensor& tensor, int64_t peer, int64_t offset,
                                      bool async, const c10d::PutOptions& opts) {
  const std::string op = "put";
  const Part& to = part(op, peer);
  check_dense_cpu(op, tensor);
  const std::string owner = "the window of rank " + std::to_string(peer);
  if (tensor.scalar_type() != to.dtype) {
    raise_invalid(op, std::string("the tensor has dtype ") + c10::toString(tensor.scalar_type()) +
                          ", and " + owner + " has " + c10::toString(to.dtype) +
                          "; convert the tensor, or register another one");
  }
  if (offset < 0 || offset > to.count || tensor.numel() > to.count - offset) {
    raise_invalid(op, elements(tensor.numel()) + " at offset " + std::to_string(offset) +
                          " do not fit into " + owner + ", which has " + elements(to.count) +
                          "; the offset is 0 or more, and with the tensor's elements at most " +
                          std::to_string(to.count));
  }
  PutTarget target{.peer = static_cast<int>(peer), .window = number_};
  target.offset_bytes = static_cast<uint64_t>(offset) * c10::elementSize(to.dtype);
  if (to.memory != nullptr) target.memory = to.memory.get() + target.offset_bytes;
  CallBuilder call = builder("fastgpu:put", opts.timeout, async, {tensor});
  if (tensor.numel() > 0) call.put(target, tensor);
  return finish(call, async);
}

TorchWindow::WorkPtr TorchWindow::signal(int64_t peer, bool async,
                                         const c10d::SignalOptions& opts) {
  part("signal", peer);
  CallBuilder call = builder("fastgpu:signal", opts.timeout, async);
  if (peer == rank()) {
    call.perform([&] { own_signals_.fetch_add(1); });
  } else {
    call.signal(static_cast<int>(peer), signal_tag(number_));
  }
  return finish(call, async);
}

TorchWindow::WorkPtr TorchWindow::wait_signal(int64_t peer, bool async,
                                              const c10d::WaitSignalOptions& opts) {
  const std::string op = "wait_signal";
  part(op, peer);
  const Part& mine = parts_[static_cast<std::size_t>(rank())];
  CallBuilder call = builder("fastgpu:wait_signal", opts.timeout, async);
  call.perform([&] {
    if (mine.span && !Runtime::shared().heap().find(mine.memory.get(), mine.size_bytes())) {
      communicator().windows().fail_revoked(op);
    }
  });
  if (peer == rank()) {
    call.perform([&] {
      int64_t signals = own_signals_.load();
      while (signals > 0 && !own_signals_.compare_exchange_weak(signals, signals - 1)) {
      }
      if (signals > 0) return;
      raise_invalid(op,
                    "this rank has sent itself no signal that it has not waited for; call "
                    "signal() first");
    });
  } else {
    call.await_signal(static_cast<int>(peer), signal_tag(number_));
  }
  return finish(call, async);
}

at::Tensor TorchWindow::map_remote_tensor(int64_t peer) {
  const std::string op = "map_remote_tensor";
  const Part& theirs = part(op, peer);
  if (theirs.memory == nullptr) {
    const int rank = static_cast<int>(peer);
    const bool same_host = communicator().windows().shares_memory_with(rank);
    raise_invalid(op, "the tensor of " + communicator().name_of(rank) +
                          (same_host ? " is not in symmetric memory; that rank must allocate it "
                                       "with fastgpu_comm.empty()"
                                     : " is on another host, or TCP was asked for; use put() and "
                                       "signal(), or map ranks of this host only"));
  }
  return at::from_blob(
      theirs.memory.get(), theirs.sizes,
      [memory = theirs.memory](void*) mutable { memory.reset(); },
      at::TensorOptions().dtype(theirs.dtype));
}

// All CPUs of a host see the same memory at once.
c10d::WindowAttr TorchWindow::get_attr(int64_t peer) {
  part("get_attr", peer);
  return {.access_type = c10d::WindowAccessType::UNIFIED};
}

c10::intrusive_ptr<c10d::Window> TorchBackend::new_window(const std::optional<at::Tensor>& tensor) {
  auto window = c10::make_intrusive<TorchWindow>(
      c10::intrusive_ptr<TorchBackend>::unsafe_reclaim_from_nonowning(this), next_window_++);
  if (tensor) window->tensor_register(*tensor, true);
  return window;
}

}  // namespace fastgpu

#endif
