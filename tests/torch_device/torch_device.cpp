// The torch device "pretended" (PrivateUse1), over the pretended runtime. An operator that writes
// to tensors which are there runs in the current stream, with the CPU's kernel on the same memory.
// Every other operator waits for that stream, and runs on copies on the CPU.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <pybind11/pybind11.h>
#include <torch/library.h>

#include <array>
#include <chrono>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "device/pretended_runtime.h"
#include "machine.h"

namespace fastgpu::test {
namespace {

constexpr auto kType = c10::DeviceType::PrivateUse1;
constexpr auto kKey = c10::DispatchKey::PrivateUse1;

thread_local c10::DeviceIndex current_device = 0;
thread_local std::array<c10::StreamId, kDevices> current_streams{};

Machine& machine() { return Machine::of_process(); }

StreamHandle handle_of(const c10::Stream& stream) {
  return machine().stream(stream.device_index(), stream.id());
}

StreamHandle current_stream(c10::DeviceIndex device) {
  return machine().stream(device, current_streams.at(static_cast<std::size_t>(device)));
}

StreamHandle current_stream_of(const at::Tensor& tensor) {
  return current_stream(tensor.device().index());
}

bool is_pretended(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == kType;
}

class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return kType; }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }
  c10::Device getDevice() const override { return {kType, current_device}; }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.type() == kType && device.index() < kDevices, "there is no device ", device);
    if (device.has_index()) current_device = device.index();
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index()) current_device = device.index();
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before = getDevice();
    setDevice(device);
    return before;
  }

  c10::Stream getStream(c10::Device device) const override {
    const c10::DeviceIndex index = index_of(device);
    return make(index, current_streams.at(static_cast<std::size_t>(index)));
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return make(index_of(device), 0);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return make(index_of(device), machine().take_pool_stream(index_of(device)));
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    return make(index_of(device), machine().make_stream(index_of(device)));
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const c10::Stream before = getStream(stream.device());
    current_streams.at(static_cast<std::size_t>(stream.device_index())) = stream.id();
    return before;
  }
  void* getStreamNativeHandle(const c10::Stream stream) const override {
    return handle_of(stream).raw;
  }
  bool queryStream(const c10::Stream& stream) const override { return is_idle(handle_of(stream)); }
  void synchronizeStream(const c10::Stream& stream) const override {
    machine().synchronize(handle_of(stream));
  }
  void synchronizeDevice(const c10::DeviceIndex device) const override {
    machine().synchronize_device(device);
  }

  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    const StreamHandle recorded = handle_of(stream);
    if (*event == nullptr) *event = machine().runtime().make_event(recorded.device).raw;
    machine().runtime().record({*event, recorded.device}, recorded);
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (event == nullptr) return;
    machine().runtime().wait(handle_of(stream), {event, stream.device_index()});
  }
  bool queryEvent(void* event) const override {
    return event == nullptr || machine().runtime().passed({event, 0});
  }
  void synchronizeEvent(void* event) const override {
    while (!queryEvent(event)) std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  void destroyEvent(void* event, const c10::DeviceIndex device) const noexcept override {
    if (event != nullptr) machine().runtime().destroy(EventHandle{event, device});
  }
  void recordDataPtrOnStream(const c10::DataPtr& data, const c10::Stream& stream) const override;

 private:
  static c10::DeviceIndex index_of(c10::Device device) {
    return device.has_index() ? device.index() : current_device;
  }
  static c10::Stream make(c10::DeviceIndex device, c10::StreamId id) {
    return c10::Stream(c10::Stream::UNSAFE, {kType, device}, id);
  }
};

void free_block(void* block) { machine().free(static_cast<Block*>(block)); }

void Guard::recordDataPtrOnStream(const c10::DataPtr& data, const c10::Stream& stream) const {
  auto* const block = data.cast_context<Block>(&free_block);
  if (block != nullptr) Machine::use(*block, handle_of(stream));
}

class DeviceMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size_bytes) override {
    const c10::Device device(kType, current_device);
    if (size_bytes == 0) return {nullptr, device};
    Block* const block = machine().allocate(current_stream(current_device), size_bytes);
    return {block->memory, block, &free_block, device};
  }
  void copy_data(void* target, const void* source, std::size_t size_bytes) const override {
    const StreamHandle stream = current_stream(current_device);
    machine().runtime().copy(stream, static_cast<std::byte*>(target),
                             static_cast<const std::byte*>(source), size_bytes);
  }
};

// Memory of the host that every pretended device reads and writes.
class PinnedMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size_bytes) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (size_bytes == 0) return {nullptr, cpu};
    std::byte* const memory = machine().runtime().allocate_pinned(size_bytes);
    const std::lock_guard lock(mutex_);
    ends_[memory] = memory + size_bytes;
    return {memory, memory, &free_pinned, cpu};
  }
  void copy_data(void* target, const void* source, std::size_t size_bytes) const override {
    default_copy_data(target, source, size_bytes);
  }
  bool contains(const void* place) const {
    const std::lock_guard lock(mutex_);
    const auto after = ends_.upper_bound(static_cast<const std::byte*>(place));
    return after != ends_.begin() && place < std::prev(after)->second;
  }
  static PinnedMemory& all() {
    static auto* const memory = new PinnedMemory;  // never destroyed, as the machine
    return *memory;
  }

 private:
  static void free_pinned(void* memory) {
    {
      const std::lock_guard lock(all().mutex_);
      all().ends_.erase(static_cast<std::byte*>(memory));
    }
    machine().runtime().free_pinned(static_cast<std::byte*>(memory));
  }

  mutable std::mutex mutex_;
  std::map<const std::byte*, const std::byte*> ends_;  // guarded by mutex_
};

DeviceMemory& device_memory() {
  static auto* const memory = new DeviceMemory;
  return *memory;
}

// Gives the storage other memory, and keeps what fits of its contents.
void resize_storage(const c10::Storage& storage, std::size_t size_bytes) {
  const c10::DeviceGuard guard(storage.device());
  c10::DataPtr memory = device_memory().allocate(size_bytes);
  const std::size_t kept = std::min(size_bytes, storage.nbytes());
  if (kept > 0) device_memory().copy_data(memory.get(), storage.data(), kept);
  auto* const block = storage.data_ptr().cast_context<Block>(&free_block);
  if (block != nullptr) Machine::use(*block, current_stream(storage.device().index()));
  storage.set_data_ptr_noswap(std::move(memory));
  storage.set_nbytes(size_bytes);
}

class Hooks final : public at::PrivateUse1HooksInterface {
 public:
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kDevices; }
  void setCurrentDevice(c10::DeviceIndex device) const override {
    Guard().setDevice({kType, device});
  }
  c10::DeviceIndex getCurrentDevice() const override { return current_device; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex device) const override {
    return Guard().exchangeDevice({kType, device}).index();
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex device) const override {
    return exchangeDevice(device);
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  bool isPinnedPtr(const void* data) const override { return PinnedMemory::all().contains(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &PinnedMemory::all(); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, std::size_t size_bytes) const override {
    resize_storage(storage, size_bytes);
  }
};

at::Tensor empty(c10::IntArrayRef size, std::optional<c10::ScalarType> dtype,
                 std::optional<c10::Layout>, std::optional<c10::Device> device, std::optional<bool>,
                 std::optional<c10::MemoryFormat> format) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(size, &device_memory(), c10::DispatchKeySet(kKey),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride,
                         std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
                         std::optional<c10::Device> device, std::optional<bool>) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_strided_generic(size, stride, &device_memory(),
                                           c10::DispatchKeySet(kKey), c10::dtype_or_default(dtype));
}

const at::Tensor& resize(const at::Tensor& self, c10::IntArrayRef size,
                         std::optional<c10::MemoryFormat> format) {
  auto* const tensor = self.unsafeGetTensorImpl();
  tensor->set_sizes_contiguous(size);
  if (format.has_value()) tensor->empty_tensor_restride(*format);
  const std::size_t needed = at::detail::computeStorageNbytesContiguous(
      size, self.itemsize(), static_cast<std::size_t>(self.storage_offset()));
  if (self.numel() > 0 && needed > self.storage().nbytes()) resize_storage(self.storage(), needed);
  return self;
}

// The memory of a tensor as a tensor of the CPU, for work that a stream does later. Memory of the
// host is kept until then. Memory of a device is not: whoever frees it too early shall see it.
at::Tensor alias(const at::Tensor& tensor) {
  const auto options = tensor.options().device(c10::DeviceType::CPU);
  void* const data = const_cast<void*>(tensor.const_data_ptr());
  const auto keep = [kept = is_pretended(tensor) ? c10::Storage() : tensor.storage()](void*) {};
  at::Tensor made = at::from_blob(data, tensor.sizes(), tensor.strides(), keep, options);
  made._set_conj(tensor.is_conj());
  made._set_neg(tensor.is_neg());
  return made;
}

at::Tensor copy_from(const at::Tensor& source, const at::Tensor& target, bool non_blocking) {
  if (target.numel() == 0) return target;
  const StreamHandle stream = current_stream_of(is_pretended(source) ? source : target);
  const bool between = is_pretended(source) && is_pretended(target);
  const StreamHandle other = current_stream_of(between           ? target
                                               : source.is_cpu() ? target
                                                                 : source);
  if (other.raw != stream.raw) machine().order(other, stream);
  machine().run(stream, [from = alias(source), to = alias(target)] {
    const at::AutoDispatchBelowAutograd guard;
    to.copy_(from);
  });
  if (other.raw != stream.raw) machine().order(stream, other);
  if (!between && !non_blocking) machine().synchronize(stream);
  return target;
}

at::Tensor copy_from_and_resize(const at::Tensor& source, const at::Tensor& target) {
  if (target.sizes() != source.sizes()) target.resize_(source.sizes());
  return copy_from(source, target, false);
}

void record_stream(at::Tensor& self, c10::Stream stream) {
  Guard().recordDataPtrOnStream(self.storage().data_ptr(), stream);
}

// Calls `change` with a reference to each tensor of the value, and returns the value so changed.
template <typename Change>
c10::IValue change_tensors(const c10::IValue& value, const Change& change) {
  if (value.isTensor()) {
    return value.toTensor().defined() ? c10::IValue(change(value.toTensor())) : value;
  }
  if (value.isTensorList()) {
    c10::List<at::Tensor> changed;
    for (const at::Tensor& tensor : value.toTensorVector()) changed.push_back(change(tensor));
    return changed;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> changed;
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector()) {
      const bool given = tensor.has_value() && tensor->defined();
      changed.push_back(given ? std::optional(change(*tensor)) : tensor);
    }
    return changed;
  }
  return value;
}

bool writes(const c10::Argument& argument) {
  return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
}

bool is_generator(const c10::Argument& argument) {
  const std::string type = argument.type()->str();
  return type.find("Generator") != std::string::npos;
}

// Whether a call needs no new memory, and so may run later. Random numbers are drawn at once, in
// the order of calls.
bool may_run_later(const c10::FunctionSchema& schema, c10::ArrayRef<c10::IValue> arguments) {
  bool later = std::ranges::all_of(schema.returns(), writes) &&
               std::ranges::any_of(schema.arguments(), writes) &&
               std::ranges::none_of(schema.arguments(), is_generator);
  for (std::size_t i = 0; later && i < arguments.size(); ++i) {
    const bool is_output = writes(schema.arguments()[i]);
    change_tensors(arguments[i], [&](const at::Tensor& tensor) {
      later = later && tensor.layout() == c10::kStrided &&
              (is_output ? is_pretended(tensor) && tensor.numel() > 0
                         : is_pretended(tensor) || tensor.is_cpu());
      return tensor;
    });
  }
  return later;
}

std::optional<c10::Device> device_of(c10::ArrayRef<c10::IValue> arguments) {
  std::optional<c10::Device> found;
  for (const c10::IValue& argument : arguments) {
    change_tensors(argument, [&](const at::Tensor& tensor) {
      if (!found.has_value() && is_pretended(tensor)) found = tensor.device();
      return tensor;
    });
  }
  return found;
}

// Tensors of the CPU in a call with tensors of a device are numbers: the caller may change them.
at::Tensor argument_of_stream(const at::Tensor& tensor) {
  if (is_pretended(tensor)) return alias(tensor);
  at::Tensor copied = tensor.detach().clone();
  copied.unsafeGetTensorImpl()->set_wrapped_number(
      tensor.unsafeGetTensorImpl()->is_wrapped_number());
  return copied;
}

void run_later(const c10::OperatorHandle& op, StreamHandle stream, torch::jit::Stack& stack) {
  const auto& schema = op.schema();
  const std::size_t count = schema.arguments().size();
  const std::vector arguments = torch::jit::pop(stack, count);
  torch::jit::Stack work;
  std::vector<c10::IValue> written;
  for (std::size_t i = 0; i < count; ++i) {
    work.push_back(change_tensors(arguments[i], argument_of_stream));
    if (writes(schema.arguments()[i])) written.push_back(arguments[i]);
  }
  machine().run(stream, [op, work]() mutable {
    const at::AutoDispatchBelowAutograd guard;
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &work);
  });
  for (std::size_t i = 0; i < schema.returns().size(); ++i) stack.push_back(written[i]);
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto arguments = torch::jit::last(*stack, op.schema().arguments().size());
  const std::optional<c10::Device> device = device_of(arguments);
  if (device.has_value() && may_run_later(op.schema(), arguments)) {
    run_later(op, current_stream(device->index()), *stack);
  } else {
    at::native::cpu_fallback(op, stack);
  }
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", TORCH_FN(empty));
  library.impl("empty_strided", TORCH_FN(empty_strided));
  library.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  library.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  library.impl("view", TORCH_FN(at::native::view));
  library.impl("resize_", TORCH_FN(resize));
  library.impl("set_.source_Tensor", TORCH_FN(at::native::set_tensor_));
  library.impl("set_.source_Storage", TORCH_FN(at::native::set_));
  library.impl("set_.source_Storage_storage_offset", TORCH_FN(at::native::set_storage_cpu_));
  library.impl("_copy_from", TORCH_FN(copy_from));
  library.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  library.impl("record_stream", TORCH_FN(record_stream));
}

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

}  // namespace
}  // namespace fastgpu::test

PYBIND11_MODULE(_pretended, module) {
  using fastgpu::test::machine;
  namespace py = pybind11;
  using NoGil = py::call_guard<py::gil_scoped_release>;
  static fastgpu::test::Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  c10::SetAllocator(fastgpu::test::kType, &fastgpu::test::device_memory());
  module.def("runtime", [] { return py::capsule(&machine().runtime(), "fastgpu.DeviceRuntime"); });
  module.def("overwrite_freed", [](bool overwrite) { machine().overwrite_freed(overwrite); });
  module.def("sleep", [](int time_ms) {
    machine().run(fastgpu::test::current_stream(fastgpu::test::current_device),
                  [time_ms] { std::this_thread::sleep_for(std::chrono::milliseconds(time_ms)); });
  });
  module.def("finish", [] { machine().finish(); }, NoGil());
}
