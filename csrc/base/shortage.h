// Shortages of this process or its machine: of descriptors, memory, threads or permitted sizes.
// They are reported as OutOfResourcesError, so that no peer is blamed for them. Thread safety: free
// functions without state.
#pragma once

#include <string>

namespace fastgpu {

// Whether a system call that failed with this errno lacked a resource.
bool is_shortage(int error_number) noexcept;
// Raises OutOfResourcesError. Its message names the resource, `what` failed for lack of it, the
// limit, and how to raise it. It has no subject, so that a report can put the rank before it.
// EAGAIN stands for a thread that could not be started.
[[noreturn]] void raise_shortage(const std::string& what, int error_number);

// Raises the limit of open files of this process to the hard limit.
void raise_file_limit() noexcept;

}  // namespace fastgpu
