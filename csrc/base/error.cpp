#include "base/error.h"

#include <system_error>
#include <utility>

#include "base/shortage.h"

namespace fastgpu {

Failure make_failure(ErrorKind kind, std::string message, int peer, std::string op) {
  Failure failure;
  failure.kind = kind;
  failure.message = std::move(message);
  failure.peer = peer;
  failure.op = std::move(op);
  return failure;
}

std::string timed_out_after(TimeNs timeout_ns) {
  return "Timed out after " + std::to_string(timeout_ns / kMillisecond) + " ms: ";
}

void raise(const Failure& failure) {
  switch (failure.kind) {
    case ErrorKind::kInvalidArgument:
      throw InvalidArgumentError(failure);
    case ErrorKind::kPeerLost:
      throw PeerLostError(failure);
    case ErrorKind::kTimeout:
      throw CollectiveTimeoutError(failure);
    case ErrorKind::kMismatch:
      throw CollectiveMismatchError(failure);
    case ErrorKind::kAborted:
      throw AbortedError(failure);
    case ErrorKind::kAuthentication:
      throw AuthenticationError(failure);
    case ErrorKind::kRendezvous:
      throw RendezvousError(failure);
    case ErrorKind::kOutOfResources:
      throw OutOfResourcesError(failure);
  }
  throw CommError(failure);
}

void raise(ErrorKind kind, const std::string& message) { raise(make_failure(kind, message)); }

void raise_system(ErrorKind kind, const std::string& what, int error_number) {
  if (is_shortage(error_number)) raise_shortage(what, error_number);
  raise(kind, what + ": " + std::generic_category().message(error_number));
}

}  // namespace fastgpu
