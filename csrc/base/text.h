// Text that comes from elsewhere: host names, peers, files of the system, numbers.
// Thread safety: pure functions.
#pragma once

#include <charconv>
#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>

namespace fastgpu {

// The text with '?' for every byte that is not valid UTF-8.
std::string valid_utf8(std::string_view text);
// The same, on one line: control characters become spaces. So the text can neither break the form
// of a record nor steer the terminal of its reader.
std::string printable(std::string_view text);
// The first bytes of the text, at most `limit`, without a part of a character at the end.
std::string_view cut(std::string_view text, std::size_t limit);

// Whether the text is a decimal number from `least` to `most` and nothing else; it is then in
// `number`.
template <typename Number>
bool parse_number(std::string_view text, Number least, Number most, Number& number) {
  const char* const end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, number);
  return result.ec == std::errc{} && result.ptr == end && number >= least && number <= most;
}

}  // namespace fastgpu
