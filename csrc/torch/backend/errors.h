// Failures as Python exceptions: the classes of fastgpu_comm.errors, with rank, peer, op and
// sequence. They cross torch's own code (its bindings, autograd's threads, futures) as
// pybind11::error_already_set, which every one of those hands on to Python unchanged.
// Thread safety: any thread, with or without the GIL.
#pragma once

#include <exception>
#include <string>
#include <type_traits>
#include <utility>

#include "base/error.h"

namespace fastgpu {

// Throws the Python exception that `failure` is; the C++ one while the interpreter shuts down.
[[noreturn]] void raise_in_python(const Failure& failure);
// The same as a value, to keep or to complete a future with.
std::exception_ptr python_exception(const Failure& failure);

// Runs `body`; a CommError leaves it as a Python exception. For every entry from c10d.
template <typename Body>
std::invoke_result_t<Body> translated(Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (const CommError& error) {
    raise_in_python(error.failure());
  }
}

// Raises InvalidArgumentError about a call of `op` (as "all_reduce").
[[noreturn]] void raise_invalid(const std::string& op, const std::string& message);

// Makes raise_in_python throw the C++ exception from now on: the interpreter is about to go.
void forget_python() noexcept;

}  // namespace fastgpu
