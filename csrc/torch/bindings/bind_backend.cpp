#include <pybind11/chrono.h>
#include <pybind11/functional.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "comm/runtime.h"
#include "comm/topology.h"
#include "torch/backend/backend.h"
#include "torch/backend/callbacks.h"
#include "torch/backend/errors.h"
#include "torch/bindings/bind.h"

namespace py = pybind11;

namespace fastgpu {
namespace {

using BackendPtr = c10::intrusive_ptr<TorchBackend>;
using Milliseconds = std::chrono::milliseconds;

constexpr TimeNs kCallbackLimit = 5 * kSecond;

// Called before the interpreter shuts down: leaves every group, and keeps other threads out of
// Python from then on.
void end(const std::string& why, bool by_error) {
  leave_python_to_this_thread();
  if (Runtime* const runtime = Runtime::existing()) {
    for (const auto& communicator : runtime->communicators()) communicator->shutdown(why, by_error);
  }
  CallbackThreads::shared().stop(now_ns() + kCallbackLimit);
}

py::dict stats(const TorchBackend& backend) {
  const Counters counters = backend.communicator()->counters();
  py::dict result;
  result["operations"] = counters.operations;
  result["bytes_sent"] = counters.bytes_sent;
  result["bytes_received"] = counters.bytes_received;
  result["busy_seconds"] = static_cast<double>(counters.busy_ns) * 1e-9;
  return result;
}

}  // namespace

void bind_backend(py::module_& module) {
  using Class = py::class_<TorchBackend, c10d::Backend, BackendPtr>;
  Class backend(module, "Backend");
  backend.def(py::init([](const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                          const BackendOptions& options) {
                const py::gil_scoped_release no_gil;
                return c10::make_intrusive<TorchBackend>(store, rank, size, options);
              }),
              py::arg("store"), py::arg("rank"), py::arg("size"), py::arg("options"));
  backend.def("stats", &stats);
  backend.def_property_readonly("on_one_host", [](const TorchBackend& self) {
    return on_one_host(self.communicator()->topology());
  });
  // Attributes that torch's Python code expects and that c10d's bindings lack.
  backend.def_property_readonly("options", [](TorchBackend& self) {
    return c10::static_intrusive_pointer_cast<BackendOptions>(self.getBackendOptions());
  });
  backend.def("_is_initialized", &TorchBackend::isInitialized);
  backend.def("_set_default_timeout", &TorchBackend::setTimeout, py::arg("timeout"));
  backend.def("comm_split_count", &TorchBackend::split_count);
  // torch 2.14 and 2.15 bind these themselves.
#if !FASTGPU_TORCH_SINCE(14)
  backend.def("_add_ephemeral_timeout", &TorchBackend::addEphemeralTimeout, py::arg("timeout"));
  backend.def("register_abort_hook", &TorchBackend::registerAbortHook, py::arg("hook_id"),
              py::arg("hook"));
  backend.def("unregister_abort_hook", &TorchBackend::unregisterAbortHook, py::arg("hook_id"));
#endif
#if !FASTGPU_TORCH_SINCE(15)
  backend.def("_start_time_estimate", &TorchBackend::startTimeEstimate);
  backend.def("_end_time_estimate", &TorchBackend::endTimeEstimate);
#endif
  // Called on ranks that a split leaves out. They take no part in the rendezvous.
  backend.def("perform_nocolor_split", [](TorchBackend&, const py::object&) {}, py::arg("device"));
  module.def("end", &end, py::arg("why"), py::arg("by_error"),
             py::call_guard<py::gil_scoped_release>());
}

}  // namespace fastgpu
