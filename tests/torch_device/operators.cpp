// The torch device "pretended" (PrivateUse1), over the pretended runtime. An operator that writes
// to tensors which are there runs in the current stream, with the CPU's kernel on the same memory.
// Every other operator waits for that stream, and runs on copies on the CPU.
#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <pybind11/pybind11.h>
#include <torch/library.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "device/pretended_kernels.h"
#include "guard.h"
#include "machine.h"

namespace fastgpu::test {
namespace {

bool is_pretended(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == kType;
}

StreamHandle current_stream_of(const at::Tensor& tensor) {
  return current_stream(tensor.device().index());
}

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
  if (tensor->sizes() != size) tensor->set_sizes_contiguous(size);
  if (format.has_value()) tensor->empty_tensor_restride(*format);
  const std::size_t needed = at::detail::computeStorageNbytesContiguous(
      size, self.itemsize(), static_cast<std::size_t>(self.storage_offset()));
  if (self.numel() > 0 && needed > self.storage().nbytes()) resize_storage(self.storage(), needed);
  return self;
}

// The memory of a tensor as a tensor of the CPU, for work that a stream does later. Memory of the
// host is kept until then. Memory of a device is not, so that a use after free shows.
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
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
    copied.unsafeGetTensorImpl()->set_wrapped_number(true);
  }
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
  library.impl("unfold", TORCH_FN(at::native::unfold));
  library.impl("view_as_real", TORCH_FN(at::native::view_as_real));
  library.impl("view_as_complex", TORCH_FN(at::native::view_as_complex));
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
  using fastgpu::test::Gate;
  using fastgpu::test::machine;
  using fastgpu::test::PretendedGraph;
  namespace py = pybind11;
  using NoGil = py::call_guard<py::gil_scoped_release>;
  static fastgpu::test::Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  c10::SetAllocator(fastgpu::test::kType, &fastgpu::test::device_memory());
  const auto current = [] { return fastgpu::test::current_stream(fastgpu::test::current_device); };
  module.attr("device_count") = fastgpu::test::kDevices;
  module.def("runtime", [] { return py::capsule(&machine().runtime(), "fastgpu.DeviceRuntime"); });
  module.def("kernels", [] {
    static const fastgpu::device::LaneKernels kKernels = fastgpu::device::pretended_kernels();
    return py::capsule(&kKernels, "fastgpu.LaneKernels");
  });
  module.def("sleep", [current](int time_ms) {
    machine().run(current(),
                  [=] { std::this_thread::sleep_for(std::chrono::milliseconds(time_ms)); });
  });
  py::class_<Gate>(module, "Gate").def("open", &Gate::open);
  module.def("hold", [current] { return std::make_unique<Gate>(current()); });
  py::class_<PretendedGraph>(module, "Graph").def("replay", [current](const PretendedGraph& graph) {
    fastgpu::test::replay(current(), graph);
  });
  module.def("begin_capture", [current] { fastgpu::test::begin_capture(current()); });
  module.def("end_capture", [current] { return fastgpu::test::end_capture(current()); });
  module.def("overwrite_freed", [](bool overwrite) { machine().overwrite_freed(overwrite); });
  module.def("await_freed", [] { machine().await_freed(); }, NoGil());
  module.def("finish", [] { machine().finish(); }, NoGil());
}
