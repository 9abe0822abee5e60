// The parts of the module fastgpu_comm._native. Each is defined in the file of its name.
#pragma once

#include <pybind11/pybind11.h>

namespace fastgpu {

void bind_options(pybind11::module_& module);
void bind_backend(pybind11::module_& module);
void bind_memory(pybind11::module_& module);
void bind_plan(pybind11::module_& module);
void bind_reducer(pybind11::module_& module);
void bind_system(pybind11::module_& module);

}  // namespace fastgpu
