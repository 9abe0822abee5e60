#include "plan/cost/constants.h"

#include <array>
#include <charconv>
#include <cmath>

#include "base/error.h"

namespace fastgpu {
namespace {

constexpr std::string_view kTextForm = "fastgpu-costs-2";

// Every number of a Constants, in the order of its text.
std::array<double*, 12> fields_of(Constants& c) {
  return {&c.same_host.alpha_us,        &c.same_host.beta_us_per_byte,
          &c.same_host.overhead_us,     &c.same_host.cpu_us_per_byte,
          &c.between_hosts.alpha_us,    &c.between_hosts.beta_us_per_byte,
          &c.between_hosts.overhead_us, &c.between_hosts.cpu_us_per_byte,
          &c.nic_us_per_byte,           &c.copy_us_per_byte,
          &c.reduce_us_per_byte,        &c.switch_us};
}

}  // namespace

std::string to_text(const Constants& constants) {
  Constants copy = constants;
  std::string text(kTextForm);
  std::array<char, 32> digits{};
  for (const double* field : fields_of(copy)) {
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), *field).ptr;
    text += ' ';
    text.append(digits.data(), end);
  }
  return text + ' ' + std::to_string(constants.cores_per_host);
}

Constants constants_from_text(std::string_view text) {
  const auto refuse = [&] {
    raise(ErrorKind::kInvalidArgument,
          "not the costs of links: '" + std::string(text.substr(0, 80)) + "'");
  };
  Constants constants;
  if (!text.starts_with(kTextForm)) refuse();
  const char* at = text.data() + kTextForm.size();
  const char* const end = text.data() + text.size();
  const auto read = [&](auto& value) {
    if (at == end || *at != ' ') refuse();
    const auto result = std::from_chars(at + 1, end, value);
    if (result.ec != std::errc() || !(value >= 0) || !std::isfinite(static_cast<double>(value))) {
      refuse();
    }
    at = result.ptr;
  };
  for (double* field : fields_of(constants)) read(*field);
  read(constants.cores_per_host);
  if (at != end) refuse();
  return constants;
}

}  // namespace fastgpu
