// Writes one line of key=value pairs per event to standard error, for example
//   fastgpu level=info event=group_failed reason="rank 1, group 'default': ..."
// FASTGPU_LOG sets the highest level that is written.
// Thread safety: any thread; lines do not mix.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fastgpu {

enum class LogLevel : uint8_t { kError, kWarn, kInfo, kDebug };

// `name` is error, warn (the initial level), info or debug. Raises InvalidArgumentError for others.
void set_log_level(std::string_view name);

// `event` is one word. `fields` is "key=value key=value"; the caller puts text into in_quotes().
void log(LogLevel level, std::string_view event, std::string_view fields) noexcept;
// The text in quotation marks, on one line.
std::string in_quotes(std::string_view text);

}  // namespace fastgpu
