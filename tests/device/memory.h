// Memory of a pretended GPU: aligned as a test wants it, filled from a seed, and compared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>

namespace fastgpu::test {

// Begins `shift_bytes` behind a border of 16 bytes.
class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t size_bytes, std::size_t shift_bytes = 0)
      : bytes_(new std::byte[size_bytes + shift_bytes + 16]), size_bytes_(size_bytes) {
    const auto address = reinterpret_cast<std::uintptr_t>(bytes_.get());
    data_ = bytes_.get() + (16 - address % 16) % 16 + shift_bytes;
    std::memset(data_, 0xee, size_bytes);
  }

  std::byte* data() const { return data_; }
  template <typename Type>
  Type* as() const {
    return reinterpret_cast<Type*>(data_);
  }
  std::size_t size_bytes() const { return size_bytes_; }

  // Random bits: every kind of number, NaN and infinity included.
  void fill(std::mt19937_64& random) const {
    for (std::size_t i = 0; i < size_bytes_; ++i) data_[i] = static_cast<std::byte>(random());
  }

  bool operator==(const DeviceMemory& other) const {
    return size_bytes_ == other.size_bytes_ && std::memcmp(data_, other.data_, size_bytes_) == 0;
  }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  std::byte* data_;
  std::size_t size_bytes_;
};

// "from byte 12 on 3f00, expected 3e00", with up to 8 bytes from the first wrong one on; "" if
// there is none.
inline std::string first_difference(const std::byte* found, const std::byte* expected,
                                    std::size_t size_bytes) {
  std::size_t at = 0;
  while (at < size_bytes && found[at] == expected[at]) ++at;
  if (at == size_bytes) return "";
  const auto hex = [&](const std::byte* bytes) {
    std::string text;
    for (std::size_t i = at; i < size_bytes && i < at + 8; ++i) {
      const auto byte = std::to_integer<unsigned>(bytes[i]);
      text += "0123456789abcdef"[byte / 16];
      text += "0123456789abcdef"[byte % 16];
    }
    return text;
  };
  return "from byte " + std::to_string(at) + " on " + hex(found) + ", expected " + hex(expected);
}

}  // namespace fastgpu::test
