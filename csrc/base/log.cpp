#include "base/log.h"

#include <array>
#include <atomic>
#include <cstdio>

#include "base/error.h"

namespace fastgpu {
namespace {

constexpr std::array<std::string_view, 4> kLevels{"error", "warn", "info", "debug"};

std::atomic<LogLevel>& highest_level() {
  static std::atomic<LogLevel> level{LogLevel::kWarn};
  return level;
}

}  // namespace

void set_log_level(std::string_view name) {
  for (std::size_t i = 0; i < kLevels.size(); ++i) {
    if (kLevels[i] == name) {
      highest_level().store(static_cast<LogLevel>(i), std::memory_order_relaxed);
      return;
    }
  }
  raise(ErrorKind::kInvalidArgument,
        "FASTGPU_LOG is '" + std::string(name) +
            "', which is not allowed; set it to: error, warn, info, debug");
}

void log(LogLevel level, std::string_view event, std::string_view fields) noexcept {
  if (level > highest_level().load(std::memory_order_relaxed)) return;
  const std::string_view name = kLevels[static_cast<std::size_t>(level)];
  std::fprintf(stderr, "fastgpu level=%.*s event=%.*s %.*s\n", static_cast<int>(name.size()),
               name.data(), static_cast<int>(event.size()), event.data(),
               static_cast<int>(fields.size()), fields.data());
}

std::string in_quotes(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < ' ' || c == '\x7f' ? ' ' : c;
  }
  return out + "\"";
}

}  // namespace fastgpu
