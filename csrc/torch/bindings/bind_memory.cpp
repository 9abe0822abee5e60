#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "torch/backend/symmetric_tensor.h"
#include "torch/bindings/bind.h"

namespace py = pybind11;

namespace fastgpu {
namespace {

at::Tensor empty(const std::vector<int64_t>& sizes, at::ScalarType dtype) {
  for (const int64_t size : sizes) {
    if (size < 0) {
      throw py::value_error("size " + std::to_string(size) + " is negative; use 0 or more");
    }
  }
  return symmetric_tensor(sizes, dtype);
}

}  // namespace

void bind_memory(py::module_& module) {
  module.def("empty", &empty, py::arg("sizes"), py::arg("dtype"),
             py::call_guard<py::gil_scoped_release>());
}

}  // namespace fastgpu
