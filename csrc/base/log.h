// One key=value line to standard error for each thing worth telling, at FASTGPU_LOG's level:
//   fastgpu level=info event=group_failed reason="rank 1, group 'default': ..."
// Thread safety: any thread; a line is written whole.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fastgpu {

enum class LogLevel : uint8_t { kError, kWarn, kInfo, kDebug };

// Takes error, warn (in force at first), info or debug; raises InvalidArgumentError for another.
void set_log_level(std::string_view name);
bool log_enabled(LogLevel level) noexcept;

// `event` names what happened; `fields` is "key=value key=value", quoted by the caller with
// quoted().
void log(LogLevel level, std::string_view event, std::string_view fields) noexcept;
std::string quoted(std::string_view text);

}  // namespace fastgpu
