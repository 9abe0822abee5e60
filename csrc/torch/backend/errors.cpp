#include "torch/backend/errors.h"

#include <pybind11/pybind11.h>

#include <atomic>

namespace py = pybind11;

namespace fastgpu {
namespace {

std::atomic<bool> python_is_gone{false};

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

void raise_in_python(const Failure& failure) {
  if (python_is_gone.load() || Py_IsInitialized() == 0) raise(failure);
  const py::gil_scoped_acquire gil;
  const py::object type = py::module_::import("fastgpu_comm.errors").attr(class_name(failure.kind));
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
    raise_in_python(failure);
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

void forget_python() noexcept { python_is_gone.store(true); }

}  // namespace fastgpu
