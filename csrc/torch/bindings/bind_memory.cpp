#include <ATen/ATen.h>
#include <ATen/ops/from_blob.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <new>

#include "comm/runtime.h"
#include "torch/bindings/bind.h"

namespace py = pybind11;

namespace fastgpu {
namespace {

at::Tensor empty(const std::vector<int64_t>& sizes, at::ScalarType dtype) {
  std::size_t size_bytes = c10::elementSize(dtype);
  for (const int64_t size : sizes) {
    if (size < 0) {
      throw py::value_error("size " + std::to_string(size) + " is negative; use 0 or more");
    }
    if (__builtin_mul_overflow(size_bytes, size, &size_bytes)) throw std::bad_alloc();
  }
  SymmetricHeap& heap = Runtime::shared().heap();
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
