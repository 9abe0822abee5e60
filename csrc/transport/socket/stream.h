// A stream of bytes to a peer, below TCP channels and control links. It is plain TCP today. An
// encrypted stream can replace it, because nobody else reads or writes the socket.
//
// Ownership: a stream owns its socket.
// Threading: one thread at a time; shut_down() from any thread while the stream exists.
// Invariants:
// 1. No call waits.
// 2. After kBlocked, call again when fd() has become readable or writable. Watch it for both,
//    whichever call was blocked: an encrypted stream may have to write before it can read.
// 3. read() returns kClosed only after all bytes that have arrived were read.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <span>

#include "base/unique_fd.h"
#include "transport/channel.h"

namespace fastgpu {

class Stream {
 public:
  virtual ~Stream() = default;
  // To watch in a poller, and to set options of the socket.
  virtual int fd() const noexcept = 0;
  // Reads what has arrived into the parts. kMoved: *size bytes, at least 1.
  virtual Io read(std::span<const iovec> parts, std::size_t* size) noexcept = 0;
  // Writes what there is room for. kMoved: *size bytes.
  virtual Io write(std::span<const iovec> parts, std::size_t* size) noexcept = 0;
  // Ends both directions: the peer reads the end of the stream, and fd() becomes readable here.
  virtual void shut_down() noexcept = 0;
};

// `socket` is connected and non-blocking.
std::unique_ptr<Stream> make_tcp_stream(UniqueFd socket);

}  // namespace fastgpu
