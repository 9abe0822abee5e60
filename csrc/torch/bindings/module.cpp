#include <pybind11/pybind11.h>

#include <exception>

#include "torch/backend/errors.h"
#include "torch/bindings/bind.h"

PYBIND11_MODULE(_native, module) {
  module.doc() = "The C++ part of fastgpu_comm; use the names of the package.";
  pybind11::register_local_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const fastgpu::CommError& failed) {
      try {
        fastgpu::raise_in_python(failed.failure());
      } catch (pybind11::error_already_set& raised) {
        raised.restore();
      }
    }
  });
  fastgpu::load_exception_classes();
  fastgpu::bind_options(module);
  fastgpu::bind_backend(module);
  fastgpu::bind_memory(module);
  fastgpu::bind_plan(module);
  fastgpu::bind_reducer(module);
  fastgpu::bind_system(module);
}
