#include "comm/options.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <functional>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "kernels/cpu/variant.h"

namespace fastgpu {
namespace {

using Names = std::vector<std::string>;

constexpr std::string_view kPrefix = "FASTGPU_";

struct Field {
  std::string name;
  std::string allowed;                                    // for errors
  std::function<bool(Options&, const std::string&)> set;  // false: the text is not allowed
  std::function<std::string(const Options&)> get;
};

std::string joined(const Names& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// A field whose values are 0, 1, 2, ...; `names` are their names.
template <typename Value>
Field choice(const std::string& name, Value Options::* member, const Names& names) {
  const auto set = [member, names](Options& options, const std::string& text) {
    const auto found = std::find(names.begin(), names.end(), text);
    if (found == names.end()) return false;
    options.*member = static_cast<Value>(found - names.begin());
    return true;
  };
  const auto get = [member, names](const Options& options) {
    return names[static_cast<std::size_t>(options.*member)];
  };
  return {name, joined(names), set, get};
}

template <typename Value>
Names names_of(int count) {
  Names names;
  for (int i = 0; i < count; ++i) names.emplace_back(name_of(static_cast<Value>(i)));
  return names;
}

bool set_interface(Options& options, const std::string& text) {
  options.interface = text;
  return true;
}

bool set_port_range(Options& options, const std::string& text) {
  const std::string_view all(text);
  const std::size_t dash = all.find('-');
  const std::string_view end = dash == std::string_view::npos ? all : all.substr(dash + 1);
  int first = 0;
  int last = 0;
  if (!parse_number(all.substr(0, dash), 0, kMaxPort, first)) return false;
  if (!parse_number(end, first, kMaxPort, last)) return false;
  if (first == 0 && last != 0) return false;
  options.port_range = {static_cast<uint16_t>(first), static_cast<uint16_t>(last)};
  return true;
}

bool set_lanes(Options& options, const std::string& text) {
  int lanes = 0;
  if (text != "auto" && !parse_number(text, 1, kMaxLanes, lanes)) return false;
  options.lanes = lanes;
  return true;
}

std::string get_lanes(const Options& options) {
  return options.lanes == 0 ? "auto" : std::to_string(options.lanes);
}

const std::vector<Field>& fields() {
  static const std::vector<Field> all{
      choice("algorithm", &Options::algorithm, names_of<Algorithm>(kAlgorithmCount)),
      choice("transport", &Options::transport, {"auto", "shm", "tcp"}),
      {"interface", "a name, prefix, CIDR block or address, or a comma list of them; ^ excludes",
       set_interface, [](const Options& options) { return options.interface; }},
      {"port_range", "one port or first-last, within 1 to 65535; 0 for any free port",
       set_port_range, [](const Options& options) { return to_string(options.port_range); }},
      {"lanes", "auto, or 1 to " + std::to_string(kMaxLanes), set_lanes, get_lanes},
      choice("deterministic", &Options::deterministic, {"0", "1"}),
      choice("single_copy", &Options::single_copy, {"auto", "never", "always"}),
      choice("codec", &Options::codec, names_of<Codec>(kGroupCodecCount)),
      choice("gpu_engine", &Options::gpu_engine, {"auto", "lanes", "host"}),
  };
  return all;
}

// The Python package acts on this variable.
void check_replace_gloo(const std::string& text) {
  if (text.empty() || text == "0" || text == "1") return;
  raise(ErrorKind::kInvalidArgument,
        "FASTGPU_REPLACE_GLOO is '" + text + "', which is not allowed; set it to 0 or 1");
}

// Variables of the process that have no field. The kernels read FASTGPU_SIMD when they are first
// used; checking it here gives the error when the group is made.
struct ProcessVariable {
  std::string_view name;
  void (*take)(const std::string& text);
};
constexpr std::array<ProcessVariable, 3> kProcessVariables{{
    {"FASTGPU_LOG", [](const std::string& text) { set_log_level(text); }},
    {"FASTGPU_SIMD", [](const std::string& text) { cpu::choose_variant(text.c_str()); }},
    {"FASTGPU_REPLACE_GLOO", &check_replace_gloo},
}};

std::string variable_of(const Field& field) {
  std::string name(kPrefix);
  for (const char c : field.name) name += static_cast<char>(std::toupper(c));
  return name;
}

std::string keyword_of(const std::string& name) { return "option '" + name + "'"; }

const Field& field_named(const std::string& name) {
  for (const Field& field : fields()) {
    if (field.name == name) return field;
  }
  raise(ErrorKind::kInvalidArgument,
        "there is no option '" + name + "'; the options are " + joined(option_names()));
}

// `called` is the name by which the user knows the field.
void set(Options& options, const Field& field, const std::string& called, const std::string& text) {
  if (field.set(options, text)) return;
  raise(ErrorKind::kInvalidArgument,
        called + " is '" + text + "', which is not allowed; set it to: " + field.allowed);
}

void take_variable(Options& options, const std::string& variable, const std::string& text) {
  Names known;
  for (const ProcessVariable& of_process : kProcessVariables) {
    if (of_process.name == variable) return of_process.take(text);
    known.emplace_back(of_process.name);
  }
  for (const Field& field : fields()) {
    known.push_back(variable_of(field));
    if (known.back() != variable) continue;
    set(options, field, variable, text);
    options.from_environment.insert(field.name);
    return;
  }
  raise(ErrorKind::kInvalidArgument, "the environment variable " + variable +
                                         " is not known; unset it, or use one of " + joined(known));
}

}  // namespace

const std::vector<std::string>& option_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const Field& field : fields()) all.push_back(field.name);
    return all;
  }();
  return names;
}

void set_field(Options& options, const std::string& name, const std::string& text) {
  set(options, field_named(name), keyword_of(name), text);
  options.from_environment.erase(name);
}

std::string label_of(const Options& options, const std::string& name) {
  const Field& field = field_named(name);
  return options.from_environment.contains(name) ? variable_of(field) : keyword_of(name);
}

std::string get_field(const Options& options, const std::string& name) {
  return field_named(name).get(options);
}

Options options_from_environment(const std::map<std::string, std::string>& environment) {
  Options options;
  for (const auto& [variable, text] : environment) {
    if (variable.starts_with(kPrefix)) take_variable(options, variable, text);
  }
  return options;
}

std::map<std::string, std::string> variable_defaults() {
  std::map<std::string, std::string> defaults;
  for (const Field& field : fields()) defaults[variable_of(field)] = field.get(Options{});
  for (const ProcessVariable& of_process : kProcessVariables) {
    defaults.emplace(of_process.name, "");
  }
  return defaults;
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
