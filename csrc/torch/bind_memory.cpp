#include <ATen/ATen.h>
#include <ATen/ops/from_blob.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>

#include "comm/process.h"
#include "torch/bind.h"

namespace py = pybind11;

namespace fastgpu {
namespace {

at::Tensor empty(const std::vector<int64_t>& sizes, at::ScalarType dtype) {
  int64_t count = 1;
  for (const int64_t size : sizes) {
    if (size < 0) throw py::value_error("sizes must not be negative");
    count *= size;
  }
  const std::size_t size_bytes = static_cast<std::size_t>(count) * c10::elementSize(dtype);
  SymmetricHeap& heap = Process::shared().heap();
  std::byte* memory = heap.allocate(std::max<std::size_t>(size_bytes, 1));
  return at::from_blob(
      memory, sizes, [&heap](void* freed) { heap.free(static_cast<std::byte*>(freed)); },
      at::TensorOptions().dtype(dtype));
}

}  // namespace

void bind_memory(py::module_& module) {
  module.def("empty", &empty, py::arg("sizes"), py::arg("dtype"),
             py::call_guard<py::gil_scoped_release>());
}

}  // namespace fastgpu
