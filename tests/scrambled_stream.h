// A stream that changes every byte on its way, as an encrypted one does. Code that reads or writes
// the socket directly gets wrong bytes. Ownership and threading: as transport/socket/stream.h.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <utility>

#include "transport/socket/stream.h"

namespace fastgpu::test {

class ScrambledStream final : public Stream {
 public:
  explicit ScrambledStream(std::unique_ptr<Stream> plain) : plain_(std::move(plain)) {}

  int fd() const noexcept override { return plain_->fd(); }

  Io read(std::span<const iovec> parts, std::size_t* size) noexcept override {
    const Io io = plain_->read(parts, size);
    if (io != Io::kMoved) return io;
    std::size_t left = *size;
    for (const iovec& part : parts) {
      const std::size_t here = std::min(left, part.iov_len);
      auto* bytes = static_cast<std::byte*>(part.iov_base);
      for (std::size_t i = 0; i < here; ++i) bytes[i] ^= key_of(read_++);
      left -= here;
    }
    return io;
  }

  Io write(std::span<const iovec> parts, std::size_t* size) noexcept override {
    std::array<std::byte, 4096> scrambled{};
    std::size_t count = 0;
    for (const iovec& part : parts) {
      const auto* bytes = static_cast<const std::byte*>(part.iov_base);
      for (std::size_t i = 0; i < part.iov_len && count < scrambled.size(); ++i, ++count) {
        scrambled[count] = bytes[i] ^ key_of(written_ + count);
      }
    }
    const std::array<iovec, 1> whole = {iovec{.iov_base = scrambled.data(), .iov_len = count}};
    const Io io = plain_->write(whole, size);
    if (io == Io::kMoved) written_ += *size;
    return io;
  }

  void shut_down() noexcept override { plain_->shut_down(); }

 private:
  static std::byte key_of(std::size_t at) noexcept { return static_cast<std::byte>(at * 167 + 13); }

  std::unique_ptr<Stream> plain_;
  std::size_t read_ = 0;
  std::size_t written_ = 0;
};

}  // namespace fastgpu::test
