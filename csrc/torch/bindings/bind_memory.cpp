#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "torch/backend/devices.h"
#include "torch/backend/errors.h"
#include "torch/backend/symmetric_tensor.h"
#include "torch/bindings/bind.h"

namespace py = pybind11;

namespace fastgpu {
namespace {

// With its index: the current one, if none is given.
at::Device checked(at::Device device) {
  if (device.type() != device_type()) {
    raise(ErrorKind::kInvalidArgument, "there is no symmetric memory on " + device.str() +
                                           "; allowed: cpu and " +
                                           c10::DeviceTypeName(device_type(), /*lower_case=*/true));
  }
  if (!c10::impl::hasDeviceGuardImpl(device.type())) {
    raise(ErrorKind::kInvalidArgument,
          "this build of torch has no support for " + device.str() + "; use a CUDA build of torch");
  }
  return device.has_index() ? device : c10::impl::VirtualGuardImpl(device.type()).getDevice();
}

at::Tensor empty(const std::vector<int64_t>& sizes, at::ScalarType dtype, at::Device device) {
  for (const int64_t size : sizes) {
    if (size < 0) {
      throw py::value_error("size " + std::to_string(size) + " is negative; use 0 or more");
    }
  }
  if (device.is_cpu()) return symmetric_tensor(sizes, dtype);
  return translated([&] { return device_tensor(sizes, dtype, checked(device)); });
}

}  // namespace

void bind_memory(py::module_& module) {
  module.def("empty", &empty, py::arg("sizes"), py::arg("dtype"), py::arg("device"),
             py::call_guard<py::gil_scoped_release>());
  // For tests: capsules of a DeviceRuntime and of its LaneKernels, which outlive the process's use.
  module.def(
      "use_devices",
      [](const py::capsule& runtime, const py::capsule& kernels, const std::string& type) {
        use_devices(*runtime.get_pointer<DeviceRuntime>(),
                    *kernels.get_pointer<device::LaneKernels>(), at::Device(type).type());
      },
      py::arg("runtime"), py::arg("kernels"), py::arg("type"));
  module.def("device_type", [] { return c10::DeviceTypeName(device_type(), true); });
}

}  // namespace fastgpu
