#include "comm/options.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "kernels/cpu/variant.h"

namespace fastgpu {
namespace {

constexpr std::string_view kPrefix = "FASTGPU_";
// Variables of the whole process, which have no field. The kernels read FASTGPU_SIMD themselves, at
// their first use; here a bad value is refused before that.
struct ProcessVariable {
  std::string_view name;
  void (*take)(const std::string& text);
};
constexpr std::array<ProcessVariable, 2> kProcessVariables{{
    {"FASTGPU_LOG", [](const std::string& text) { set_log_level(text); }},
    {"FASTGPU_SIMD", [](const std::string& text) { cpu::choose_variant(text.c_str()); }},
}};
constexpr std::array<std::string_view, 3> kTransports{"auto", "shm", "tcp"};
constexpr std::array<std::string_view, 3> kSingleCopyNames{"auto", "never", "always"};

[[noreturn]] void refuse(const std::string& name, const std::string& text,
                         const std::string& allowed) {
  raise(ErrorKind::kInvalidArgument, name + " is '" + text + "'; allowed: " + allowed);
}

template <typename Names>
std::string joined(const Names& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + std::string(name);
  return text;
}

bool parse_number(const std::string& text, int* number) {
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, *number);
  return result.ec == std::errc{} && result.ptr == end;
}

std::vector<std::string_view> algorithm_names() {
  std::vector<std::string_view> names;
  names.reserve(kAlgorithmCount);
  for (int i = 0; i < kAlgorithmCount; ++i) names.push_back(name_of(static_cast<Algorithm>(i)));
  return names;
}

// Of an enumeration whose values have these names, in their order.
template <typename Value, typename Names>
Value named(const std::string& option, const std::string& text, const Names& names) {
  const auto found = std::find(names.begin(), names.end(), text);
  if (found == names.end()) refuse(option, text, joined(names));
  return static_cast<Value>(found - names.begin());
}

template <typename Value, typename Names>
std::string name_in(const Names& names, Value value) {
  return std::string(names[static_cast<std::size_t>(value)]);
}

void set_algorithm(Options& options, const std::string& text) {
  options.algorithm = named<Algorithm>("algorithm", text, algorithm_names());
}

void set_transport(Options& options, const std::string& text) {
  options.transport = named<Transport>("transport", text, kTransports);
}

void set_port_range(Options& options, const std::string& text) {
  int first = 0;
  int last = 0;
  const std::size_t dash = text.find('-');
  const bool numbers = dash == std::string::npos
                           ? parse_number(text, &first) && parse_number(text, &last)
                           : parse_number(text.substr(0, dash), &first) &&
                                 parse_number(text.substr(dash + 1), &last);
  const bool ephemeral = numbers && first == 0 && last == 0;
  if (!ephemeral && (!numbers || first < 1 || last > 65535 || first > last)) {
    refuse("port_range", text, "one port or 'first-last' within 1 to 65535, or 0 for any");
  }
  options.port_range = {static_cast<uint16_t>(first), static_cast<uint16_t>(last)};
}

void set_lanes(Options& options, const std::string& text) {
  int lanes = 0;
  if (text == "auto") {
    options.lanes = 0;
    return;
  }
  if (!parse_number(text, &lanes) || lanes < 1 || lanes > kMaxLanes) {
    refuse("lanes", text, "auto, or 1 to " + std::to_string(kMaxLanes));
  }
  options.lanes = lanes;
}

void set_single_copy(Options& options, const std::string& text) {
  options.single_copy = named<SingleCopy>("single_copy", text, kSingleCopyNames);
}

void set_deterministic(Options& options, const std::string& text) {
  if (text != "0" && text != "1") refuse("deterministic", text, "0, 1");
  options.deterministic = text == "1";
}

void set_interface(Options& options, const std::string& text) { options.interface = text; }

struct Field {
  void (*set)(Options&, const std::string&);
  std::string (*get)(const Options&);
};

const std::map<std::string, Field>& fields() {
  static const std::map<std::string, Field> all{
      {"algorithm",
       {set_algorithm, [](const Options& o) { return std::string(name_of(o.algorithm)); }}},
      {"transport",
       {set_transport, [](const Options& o) { return name_in(kTransports, o.transport); }}},
      {"interface", {set_interface, [](const Options& o) { return o.interface; }}},
      {"port_range",
       {set_port_range,
        [](const Options& o) {
          return std::to_string(o.port_range.first) + "-" + std::to_string(o.port_range.last);
        }}},
      {"lanes",
       {set_lanes,
        [](const Options& o) {
          return o.lanes == 0 ? std::string("auto") : std::to_string(o.lanes);
        }}},
      {"single_copy",
       {set_single_copy,
        [](const Options& o) { return name_in(kSingleCopyNames, o.single_copy); }}},
      {"deterministic",
       {set_deterministic,
        [](const Options& o) { return std::string(o.deterministic ? "1" : "0"); }}},
  };
  return all;
}

std::string variable_of(const std::string& field) {
  std::string name(kPrefix);
  for (const char c : field) name += static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return name;
}

const Field& field_named(const std::string& name) {
  const auto found = fields().find(name);
  if (found == fields().end()) {
    raise(ErrorKind::kInvalidArgument,
          "there is no option '" + name + "'; allowed: " + joined(option_names()));
  }
  return found->second;
}

}  // namespace

void set_field(Options& options, const std::string& name, const std::string& text) {
  field_named(name).set(options, text);
}

std::string get_field(const Options& options, const std::string& name) {
  return field_named(name).get(options);
}

const std::vector<std::string>& option_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const auto& [name, field] : fields()) all.push_back(name);
    return all;
  }();
  return names;
}

Options options_from_environment(const std::map<std::string, std::string>& environment) {
  std::map<std::string, std::string> field_of;
  std::vector<std::string> known;
  std::map<std::string, const ProcessVariable*> of_process;
  for (const ProcessVariable& variable : kProcessVariables) {
    known.emplace_back(variable.name);
    of_process[known.back()] = &variable;
  }
  for (const std::string& name : option_names()) {
    field_of[variable_of(name)] = name;
    known.push_back(variable_of(name));
  }
  Options options;
  for (const auto& [variable, text] : environment) {
    if (!variable.starts_with(kPrefix)) continue;
    if (std::find(known.begin(), known.end(), variable) == known.end()) {
      raise(ErrorKind::kInvalidArgument,
            "the environment variable " + variable + " is not known; allowed: " + joined(known));
    }
    if (const auto found = of_process.find(variable); found != of_process.end()) {
      found->second->take(text);
      continue;
    }
    const std::string& field = field_of.at(variable);
    try {
      set_field(options, field, text);
    } catch (const InvalidArgumentError& error) {
      raise(ErrorKind::kInvalidArgument,
            "the environment variable " + variable + ": " + error.what());
    }
  }
  return options;
}

std::map<std::string, std::string> fastgpu_environment() {
  std::map<std::string, std::string> variables;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const std::size_t equals = text.find('=');
    if (!text.starts_with(kPrefix) || equals == std::string_view::npos) continue;
    variables.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return variables;
}

}  // namespace fastgpu
