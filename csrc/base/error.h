// The errors of the library. A Failure is a value: it passes through the data path and between
// ranks. A CommError is the exception that carries a Failure to the caller.
// Thread safety: plain values.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "base/clock.h"

namespace fastgpu {

enum class ErrorKind : uint8_t {
  kInvalidArgument,  // a mistake of the caller; nothing changed, the communicator stays usable
  kPeerLost,         // a rank died, left, or cannot be reached
  kTimeout,          // an operation's deadline passed
  kMismatch,         // the calls or options of ranks differ
  kAborted,          // the group was aborted or destroyed while the operation was pending
  kAuthentication,   // a peer does not hold the job secret
  kRendezvous,       // the ranks could not find or reach each other
  kOutOfResources,   // a process or its machine has no descriptor, memory or thread left
};
inline constexpr ErrorKind kLastErrorKind = ErrorKind::kOutOfResources;

inline constexpr int kNoRank = -1;

struct Failure {
  ErrorKind kind = ErrorKind::kAborted;
  std::string message;    // says what happened, where, and what to do next
  int rank = kNoRank;     // reports the failure
  int peer = kNoRank;     // probably caused it
  std::string op;         // failed, for example "all_reduce"
  int64_t sequence = -1;  // number of the operation in its communicator
};

Failure make_failure(ErrorKind kind, std::string message, int peer = kNoRank, std::string op = "");

// How the text of every time-out begins: "Timed out after 3000 ms: ". Programs look for the first
// two words.
std::string timed_out_after(TimeNs timeout_ns);

class CommError : public std::runtime_error {
 public:
  explicit CommError(Failure failure)
      : std::runtime_error(failure.message), failure_(std::move(failure)) {}
  const Failure& failure() const noexcept { return failure_; }

 private:
  Failure failure_;
};

// One class per kind. The bindings map each one to the Python exception of the same name.
class InvalidArgumentError : public CommError {
  using CommError::CommError;
};
class PeerLostError : public CommError {
  using CommError::CommError;
};
class CollectiveTimeoutError : public CommError {
  using CommError::CommError;
};
class CollectiveMismatchError : public CommError {
  using CommError::CommError;
};
class AbortedError : public CommError {
  using CommError::CommError;
};
class AuthenticationError : public CommError {
  using CommError::CommError;
};
class RendezvousError : public CommError {
  using CommError::CommError;
};
class OutOfResourcesError : public CommError {
  using CommError::CommError;
};

// Throws the exception class of the failure's kind.
[[noreturn]] void raise(const Failure& failure);
[[noreturn]] void raise(ErrorKind kind, const std::string& message);
// For a failed system call: the message is `what` and the text of `error_number` (errno). If this
// process ran out of a resource, raises OutOfResourcesError instead (base/shortage.h).
[[noreturn]] void raise_system(ErrorKind kind, const std::string& what, int error_number);

}  // namespace fastgpu
