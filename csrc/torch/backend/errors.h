// Raises failures as Python exceptions: the classes of fastgpu_comm.errors, with the attributes
// rank, peer, op and sequence. In C++ they are thrown as pybind11::error_already_set, because
// torch's bindings, autograd threads and futures all pass that exception to Python unchanged.
// Thread safety: any thread, with or without the GIL.
#pragma once

#include <exception>
#include <string>
#include <type_traits>
#include <utility>

#include "base/error.h"

namespace fastgpu {

// Must come before the first error: finds the exception classes. An import at error time could
// come while the interpreter shuts down.
void load_exception_classes();

// Throws the Python exception of `failure`. Does not return in a thread that may not use Python any
// more (leave_python_to_this_thread).
[[noreturn]] void raise_in_python(const Failure& failure);
// The same exception as a value, for example to complete a future. It is a CommError where the
// thread may not use Python any more.
std::exception_ptr python_exception(const Failure& failure);

// Runs `body` and turns a CommError into a Python exception. Every function that c10d calls, and
// that may raise, runs in it.
template <typename Body>
std::invoke_result_t<Body> translated(Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (const CommError& error) {
    raise_in_python(error.failure());
  }
}

// Raises InvalidArgumentError for a call of `op`, for example "all_reduce".
[[noreturn]] void raise_invalid(const std::string& op, const std::string& message);

// " while it handled ..." if this thread of Python handles an exception, as in a `finally` block.
std::string and_what_python_handles();

// Must be called before the interpreter shuts down: from then on only the calling thread uses
// Python. A thread that enters Python while it shuts down is ended by Python inside our functions,
// and that ends the process with SIGABRT.
void leave_python_to_this_thread() noexcept;

}  // namespace fastgpu
