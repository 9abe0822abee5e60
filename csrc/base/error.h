// What can go wrong, once for the whole library: a Failure is a value that travels inside the data
// path and between ranks; CommError carries it across the boundary to callers.
// Thread safety: values, no state.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace fastgpu {

enum class ErrorKind : uint8_t {
  kInvalidArgument,  // the caller's mistake; nothing changed, the communicator stays usable
  kPeerLost,         // a rank died, left, or cannot be reached
  kTimeout,          // an operation's deadline passed
  kMismatch,         // ranks called different things
  kAborted,          // abort() or destroy was called while the operation was pending
  kAuthentication,   // a peer does not hold the job secret
  kRendezvous,       // the ranks could not be brought together
};

inline constexpr int kNoRank = -1;

struct Failure {
  ErrorKind kind = ErrorKind::kAborted;
  std::string message;  // what happened, to whom, and what to do now
  int rank = kNoRank;   // me
  int peer = kNoRank;   // the suspect
  std::string op;       // the operation it struck, as "all_reduce"
  int64_t sequence = -1;
};

class CommError : public std::runtime_error {
 public:
  explicit CommError(Failure failure)
      : std::runtime_error(failure.message), failure_(std::move(failure)) {}
  const Failure& failure() const noexcept { return failure_; }

 private:
  Failure failure_;
};

// One class a meaning; the bindings map them one to one to the Python exceptions of these names.
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

// Throws the class that the failure's kind names.
[[noreturn]] void raise(const Failure& failure);
[[noreturn]] void raise(ErrorKind kind, const std::string& message);
// A failed system call: `what` and the text of `error_number` (an errno value).
[[noreturn]] void raise_system(ErrorKind kind, const std::string& what, int error_number);

}  // namespace fastgpu
