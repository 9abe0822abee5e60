#include <pybind11/chrono.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <array>

#include "base/error.h"
#include "torch/backend/options.h"
#include "torch/bindings/bind.h"

namespace py = pybind11;

namespace fastgpu {
namespace {

// str(value) as bytes; like the environment, it may hold bytes that are not UTF-8.
std::string str_of(const py::handle& value) {
  PyObject* bytes = PyUnicode_EncodeFSDefault(py::str(value).ptr());
  if (bytes == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::bytes>(bytes);
}

// The value as text, in the form of a FASTGPU_ variable: True is "1", (1, 9) is "1-9".
std::string text_of(const py::handle& value) {
  if (py::isinstance<py::bool_>(value)) return value.cast<bool>() ? "1" : "0";
  if (!py::isinstance<py::tuple>(value)) return str_of(value);
  std::string text;
  for (const py::handle part : value) {
    if (!text.empty()) text += '-';
    text += str_of(part);
  }
  return text;
}

std::string type_of(const py::handle& value) {
  return py::str(py::type::of(value).attr("__name__")).cast<std::string>();
}

std::chrono::milliseconds timeout_of(const py::handle& value) {
  if (!py::isinstance(value, py::module_::import("datetime").attr("timedelta"))) {
    throw py::type_error(
        "Options.timeout must be a datetime.timedelta, such as timedelta(seconds=30), not " +
        type_of(value) + " " + py::repr(value).cast<std::string>());
  }
  const auto timeout = value.cast<std::chrono::milliseconds>();
  if (timeout.count() >= 0) return timeout;
  raise(ErrorKind::kInvalidArgument,
        "Options.timeout is " + std::to_string(timeout.count()) + " ms; set it to 0 or more");
}

// None leaves the field to its FASTGPU_ variable.
void set_field_of(BackendOptions& options, const std::string& name, const py::handle& value) {
  if (value.is_none()) return options.unset(name);
  options.set(name, text_of(value));
}

// Positional arguments are taken only to refuse them in plain words.
c10::intrusive_ptr<BackendOptions> make_options(const py::args& positional,
                                                const py::kwargs& fields) {
  if (!positional.empty()) {
    throw py::type_error("Options takes keywords only, such as Options(algorithm='ring'); it got " +
                         py::repr(positional).cast<std::string>());
  }
  auto options = c10::make_intrusive<BackendOptions>();
  for (const auto& [key, value] : fields) {
    const auto name = py::cast<std::string>(key);
    if (name != "timeout") {
      set_field_of(*options, name, value);
    } else if (!value.is_none()) {
      options->timeout = timeout_of(value);
      options->timeout_is_set = true;
    }
  }
  return options;
}

}  // namespace

void bind_options(py::module_& module) {
  using Class =
      py::class_<BackendOptions, c10d::Backend::Options, c10::intrusive_ptr<BackendOptions>>;
  Class options(module, "Options");
  options.def(py::init(&make_options));
  for (const std::string& name : option_names()) {
    options.def_property(
        name.c_str(), [name](const BackendOptions& self) { return self.get(name); },
        [name](BackendOptions& self, const py::object& value) { set_field_of(self, name, value); });
  }
  options.def_readonly("timeout_is_set", &BackendOptions::timeout_is_set);
  options.def_readwrite("store_ends", &BackendOptions::store_ends);
  const auto copy = [](const BackendOptions& self) {
    return c10::static_intrusive_pointer_cast<BackendOptions>(self.clone());
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
