#include "torch/backend/errors.h"

#include <pybind11/pybind11.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <thread>

namespace py = pybind11;

namespace fastgpu {
namespace {

constexpr auto kKinds = static_cast<std::size_t>(kLastErrorKind) + 1;

// By ErrorKind; never released.
std::array<PyObject*, kKinds> exception_classes{};

std::atomic<bool> shuts_down{false};
std::thread::id last_thread;  // the one that shuts Python down; written before shuts_down

bool is_kept_out() { return shuts_down.load() && last_thread != std::this_thread::get_id(); }

bool may_use_python() { return Py_IsInitialized() != 0 && !is_kept_out(); }

// For a thread that would return to Python: Python's own threads do the same from 3.14 on.
[[noreturn]] void sleep_until_process_ends() {
  if (Py_IsInitialized() != 0 && PyGILState_Check() != 0) PyEval_SaveThread();
  while (true) ::pause();
}

const char* class_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
      return "InvalidArgumentError";
    case ErrorKind::kPeerLost:
      return "PeerLostError";
    case ErrorKind::kTimeout:
      return "CollectiveTimeoutError";
    case ErrorKind::kMismatch:
      return "CollectiveMismatchError";
    case ErrorKind::kAborted:
      return "AbortedError";
    case ErrorKind::kAuthentication:
      return "AuthenticationError";
    case ErrorKind::kRendezvous:
      return "RendezvousError";
    case ErrorKind::kOutOfResources:
      return "OutOfResourcesError";
  }
  return "CommError";
}

// Bytes that are not UTF-8 are replaced: a peer may have sent the text, and it may end inside a
// character.
py::object text_of(const std::string& text) {
  PyObject* const decoded =
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace");
  if (decoded == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(decoded);
}

template <typename Number>
py::object or_none(Number value) {
  return value < 0 ? py::object(py::none()) : py::object(py::int_(value));
}

}  // namespace

void load_exception_classes() {
  const py::module_ errors = py::module_::import("fastgpu_comm.errors");
  for (std::size_t kind = 0; kind < kKinds; ++kind) {
    exception_classes[kind] =
        py::object(errors.attr(class_name(static_cast<ErrorKind>(kind)))).release().ptr();
  }
}

void raise_in_python(const Failure& failure) {
  if (is_kept_out()) sleep_until_process_ends();
  if (!may_use_python()) raise(failure);
  const py::gil_scoped_acquire gil;
  const py::handle type(exception_classes[static_cast<std::size_t>(failure.kind)]);
  const py::object error = type(text_of(failure.message));
  error.attr("rank") = or_none(failure.rank);
  error.attr("peer") = or_none(failure.peer);
  error.attr("op") = failure.op.empty() ? py::object(py::none()) : text_of(failure.op);
  error.attr("sequence") = or_none(failure.sequence);
  PyErr_SetObject(type.ptr(), error.ptr());
  throw py::error_already_set();
}

std::exception_ptr python_exception(const Failure& failure) {
  try {
    may_use_python() ? raise_in_python(failure) : raise(failure);
  } catch (...) {
    return std::current_exception();
  }
}

void raise_invalid(const std::string& op, const std::string& message) {
  Failure failure;
  failure.kind = ErrorKind::kInvalidArgument;
  failure.message = op + ": " + message;
  failure.op = op;
  raise_in_python(failure);
}

std::string and_what_python_handles() {
  if (!may_use_python()) return "";
  const py::gil_scoped_acquire gil;
  try {
    return py::module_::import("fastgpu_comm").attr("_and_what_it_handled")().cast<std::string>();
  } catch (const py::error_already_set&) {
    return "";
  }
}

void leave_python_to_this_thread() noexcept {
  last_thread = std::this_thread::get_id();
  shuts_down.store(true);
}

}  // namespace fastgpu
