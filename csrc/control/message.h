// Encodes and decodes control messages, with which ranks connect, share memory, leave, and report
// failures. docs/wire.md has the layout.
//
// Thread safety: values and free functions without state.
// Invariant: decode() accepts any bytes. It returns a message within the limits below, or raises.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace fastgpu {

enum class ControlKind : uint8_t {
  kHello = 1,    // opens a link; `text` is the dialler's process name (unix: with its doorbell)
  kWelcome = 2,  // the answer; `text` is the acceptor's process name (unix: with its doorbell)
  kRing = 3,     // unix: the ring of lane `number`
  kStream = 4,   // TCP: the first message of a connection that then carries lane `number`
  kSegment = 5,  // unix: segment `number` of the sender's symmetric memory, for all groups
  kLeave = 6,    // the sender leaves, for the reason `text`; it has opened `number` channels to the
                 // receiver
  kFail = 7,     // the sender's communicator failed, with `failure`; or it refuses a connection
  kProbe = 8,    // unix: asks whether memory can be mapped; the answer is a kProbe, too
  kDeviceSegment = 9,  // unix: segment `number` of the sender's memory of a GPU, for one group
  kDeviceSegmentMapped = 10,  // the answer: the sender's kernels can read segment `number`
};

// A rank of this process in a communicator.
struct MemberKey {
  uint64_t communicator = 0;
  int rank = kNoRank;
  uint32_t generation = 0;  // of the membership; 0 is the first

  auto operator<=>(const MemberKey&) const = default;
};

// A rank of this process and a peer.
struct PairKey {
  MemberKey member;
  int peer = kNoRank;

  auto operator<=>(const PairKey&) const = default;
};

struct ControlMessage {
  ControlKind kind = ControlKind::kHello;
  // The next four: only in the messages of a communicator (kRing, kStream, kLeave, kFail,
  // kDeviceSegment, kDeviceSegmentMapped).
  uint64_t communicator = 0;
  uint32_t generation = 0;
  int from = kNoRank;
  int to = kNoRank;
  uint32_t number = 0;
  uint64_t size_bytes = 0;  // of kDeviceSegment
  Failure failure;  // kFail: kind, peer, op, sequence and message; other kinds: message is `text`
  std::vector<UniqueFd> descriptors;  // travel beside the bytes

  // The receiving rank, and its pair with the sender.
  MemberKey receiver() const { return {communicator, to, generation}; }
  PairKey pair() const { return {receiver(), from}; }
  int lane() const;  // of kRing and kStream
};

// From a rank of this process to a peer.
ControlMessage message_to(const PairKey& pair, ControlKind kind, uint32_t number = 0);

inline constexpr std::size_t kMaxOpBytes = 64;
inline constexpr std::size_t kMaxTextBytes = 1500;
// The largest encoded message; a larger length prefix is refused.
inline constexpr std::size_t kMaxControlBytes = 2048;

// Cuts failure.op and failure.message to their limits without splitting a UTF-8 character.
std::vector<std::byte> encode(const ControlMessage& message);
// Raises PeerLostError for bytes that are not a control message. In failure.op and failure.message,
// `?` replaces every byte that is not valid UTF-8, because Python cannot show such text.
ControlMessage decode(std::span<const std::byte> bytes);

// Raises PeerLostError: a peer sent something that the protocol does not allow. `what` completes
// the sentence "it broke the control protocol: ...".
[[noreturn]] void raise_violation(const std::string& what);

}  // namespace fastgpu
