// Facts about this build and this machine for `fastgpu-comm env`. Communication does not need them.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "base/cache_lines.h"
#include "comm/options.h"
#include "kernels/cpu/variant.h"
#include "torch/bindings/bind.h"
#include "transport/socket/socket.h"

namespace py = pybind11;

namespace fastgpu {
namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "gcc " __VERSION__;
#endif
}

// (name, address) of the interfaces that a FASTGPU_INTERFACE of `pattern` selects; all if empty.
std::vector<std::tuple<std::string, std::string>> interfaces(const std::string& pattern) {
  std::vector<InterfaceAddress> found = interface_addresses();
  if (!pattern.empty()) found = match_interfaces(pattern, found);
  std::vector<std::tuple<std::string, std::string>> result;
  for (const InterfaceAddress& each : found) result.emplace_back(each.interface, each.address);
  return result;
}

std::vector<std::string> usable_instruction_sets() {
  std::vector<std::string> names;
  for (const cpu::Variant* variant : cpu::usable_variants()) names.emplace_back(variant->name);
  return names;
}

}  // namespace

void bind_system(py::module_& module) {
  module.def("compiler", &compiler);
  module.def("interfaces", &interfaces, py::arg("pattern"));
  module.def("usable_instruction_sets", &usable_instruction_sets);
  module.def("instruction_set", [] { return std::string(cpu::active_variant().name); });
  module.def("single_copy_is_slow", &lines_stay_owned);
  module.def("variables", &variable_defaults);
  module.def(
      "check_variable",
      [](const std::string& name, const std::string& text) {
        static_cast<void>(options_from_environment({{name, text}}));
      },
      py::arg("name"), py::arg("text"));
}

}  // namespace fastgpu
