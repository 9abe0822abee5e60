#include <pybind11/chrono.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <array>

#include "torch/backend/options.h"
#include "torch/bindings/bind.h"

namespace py = pybind11;

namespace fastgpu {
namespace {

// The value as text, in the form of a FASTGPU_ variable: True is "1", (1, 9) is "1-9".
std::string text_of(const py::handle& value) {
  if (py::isinstance<py::bool_>(value)) return value.cast<bool>() ? "1" : "0";
  if (!py::isinstance<py::tuple>(value)) return py::str(value).cast<std::string>();
  std::string text;
  for (const py::handle part : value) {
    if (!text.empty()) text += '-';
    text += py::str(part).cast<std::string>();
  }
  return text;
}

std::chrono::milliseconds milliseconds_of(const py::object& timeout) {
  try {
    return timeout.cast<std::chrono::milliseconds>();
  } catch (const py::cast_error&) {
    throw py::type_error("timeout must be a datetime.timedelta, not " +
                         py::str(py::type::of(timeout).attr("__name__")).cast<std::string>());
  }
}

c10::intrusive_ptr<BackendOptions> make_options(const py::object& timeout,
                                                const py::kwargs& fields) {
  auto options = c10::make_intrusive<BackendOptions>();
  for (const auto& [name, value] : fields) {
    if (!value.is_none()) options->set(py::cast<std::string>(name), text_of(value));
  }
  if (!timeout.is_none()) {
    options->timeout = milliseconds_of(timeout);
    options->timeout_is_set = true;
  }
  return options;
}

}  // namespace

void bind_options(py::module_& module) {
  using Class =
      py::class_<BackendOptions, c10d::Backend::Options, c10::intrusive_ptr<BackendOptions>>;
  Class options(module, "Options");
  options.def(py::init(&make_options), py::kw_only(), py::arg("timeout") = py::none());
  for (const std::string& name : option_names()) {
    options.def_property(
        name.c_str(), [name](const BackendOptions& self) { return self.get(name); },
        [name](BackendOptions& self, const py::object& value) { self.set(name, text_of(value)); });
  }
  options.def_readonly("timeout_is_set", &BackendOptions::timeout_is_set);
  options.def_readwrite("store_ends", &BackendOptions::store_ends);
  const auto copy = [](const BackendOptions& self) {
    return c10::make_intrusive<BackendOptions>(self);
  };
  options.def("__copy__", copy);
  options.def("__deepcopy__",
              [copy](const BackendOptions& self, const py::dict&) { return copy(self); });
  options.def("__repr__", [](const BackendOptions& self) {
    std::string text;
    for (const std::string& name : option_names()) {
      const auto value = self.get(name);
      if (value) text += (text.empty() ? "" : ", ") + name + "='" + *value + "'";
    }
    return "fastgpu_comm.Options(" + text + ")";
  });
}

}  // namespace fastgpu
