// Options as text, from FASTGPU_ variables and keywords of fastgpu_comm.Options.
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "comm/options.h"

namespace fastgpu::test {
namespace {

void check_kept(const std::string& name, const std::string& text, const std::string& read_back) {
  Options options;
  set_field(options, name, text);
  CHECK_EQ(get_field(options, name), read_back);
}

void check_refused(const std::string& name, const std::string& text, const std::string& why) {
  Options options;
  const std::string before = get_field(options, name);
  CHECK_THROWS(set_field(options, name, text), InvalidArgumentError, why);
  CHECK_EQ(get_field(options, name), before);
}

TEST(every_option_reads_back_what_was_set) {
  const std::map<std::string, std::vector<std::string>> values{
      {"algorithm", {"auto", "direct", "ring", "tree", "halving", "hierarchical"}},
      {"transport", {"auto", "shm", "tcp"}},
      {"interface", {"", "eth0", "^lo,10.0.0.0/8"}},
      {"port_range", {"0", "1-65535", "4000"}},
      {"lanes", {"auto", "1", "16"}},
      {"deterministic", {"0", "1"}},
      {"single_copy", {"auto", "never", "always"}},
      {"codec", {"none", "fp16", "bf16", "int8", "int4"}},
      {"gpu_engine", {"auto", "lanes", "host"}},
  };
  CHECK_EQ(values.size(), option_names().size());
  for (const std::string& name : option_names()) {
    const Options defaults;
    CHECK_EQ(get_field(defaults, name), values.at(name).front());
    for (const std::string& value : values.at(name)) check_kept(name, value, value);
  }
  check_kept("port_range", "4000-4000", "4000");
  check_kept("port_range", "0-0", "0");
}

TEST(codecs_that_need_error_feedback_are_not_for_a_group) {
  Options options;
  for (const char* name : {"topk", "1bit"})
    CHECK_THROWS(set_field(options, "codec", name), InvalidArgumentError, "int4");
}

TEST(fields_hold_what_their_text_says) {
  Options options;
  set_field(options, "algorithm", "tree");
  set_field(options, "transport", "tcp");
  set_field(options, "port_range", "10-20");
  set_field(options, "lanes", "3");
  set_field(options, "deterministic", "1");
  set_field(options, "single_copy", "always");
  CHECK(options.algorithm == Algorithm::kTree);
  CHECK(options.transport == Transport::kTcp);
  CHECK_EQ(options.port_range.first, 10);
  CHECK_EQ(options.port_range.last, 20);
  CHECK_EQ(options.lanes, 3);
  CHECK(options.deterministic);
  CHECK(options.single_copy == SingleCopy::kAlways);
}

TEST(a_value_that_is_not_allowed_is_refused_and_changes_nothing) {
  check_refused(
      "algorithm", "rnig",
      "option 'algorithm' is 'rnig', which is not allowed; set it to: auto, direct, ring, "
      "tree, halving, hierarchical");
  check_refused("transport", "", "auto, shm, tcp");
  check_refused("deterministic", "yes", "0, 1");
  check_refused("single_copy", "Auto", "auto, never, always");
  for (const char* text : {"0", "17", "-1", "2 ", "two", "", "99999999999"}) {
    check_refused("lanes", text, "auto, or 1 to 16");
  }
  for (const char* text :
       {"", "-", "5-", "-5", "20-10", "0-5", "1-65536", "65536", "a-b", "1-2-3", "1 - 2"}) {
    check_refused("port_range", text, "one port or first-last, within 1 to 65535");
  }
}

TEST(an_unknown_option_is_refused_with_the_names_of_all) {
  Options options;
  CHECK_THROWS(set_field(options, "speed", "high"), InvalidArgumentError,
               "there is no option 'speed'; the options are algorithm, transport, interface, "
               "port_range, lanes, deterministic, single_copy");
  CHECK_THROWS(get_field(options, ""), InvalidArgumentError, "there is no option ''");
}

TEST(variables_set_the_fields_that_they_name) {
  const Options options = options_from_environment({{"FASTGPU_LANES", "2"},
                                                    {"FASTGPU_PORT_RANGE", "7"},
                                                    {"PATH", "/bin"},
                                                    {"FASTGPU", "x"},
                                                    {"FASTGPU_REPLACE_GLOO", "1"}});
  CHECK_EQ(options.lanes, 2);
  CHECK_EQ(options.port_range.last, 7);
  CHECK(options.algorithm == Algorithm::kAuto);
}

TEST(a_value_is_named_by_its_source) {
  Options options = options_from_environment({{"FASTGPU_LANES", "2"}});
  CHECK_EQ(label_of(options, "lanes"), "FASTGPU_LANES");
  CHECK_EQ(label_of(options, "interface"), "option 'interface'");
  set_field(options, "lanes", "3");
  CHECK_EQ(label_of(options, "lanes"), "option 'lanes'");
}

TEST(a_variable_that_cannot_be_used_says_what_is_allowed) {
  CHECK_THROWS(options_from_environment({{"FASTGPU_LANES", "many"}}), InvalidArgumentError,
               "FASTGPU_LANES is 'many', which is not allowed; set it to: auto, or 1 to 16");
  CHECK_THROWS(options_from_environment({{"FASTGPU_ALGORYTHM", "ring"}}), InvalidArgumentError,
               "the environment variable FASTGPU_ALGORYTHM is not known; unset it, or use one of "
               "FASTGPU_LOG, FASTGPU_SIMD, FASTGPU_REPLACE_GLOO, FASTGPU_ALGORITHM, ");
  CHECK_THROWS(options_from_environment({{"FASTGPU_LOG", "loud"}}), InvalidArgumentError,
               "error, warn, info, debug");
  CHECK_THROWS(options_from_environment({{"FASTGPU_SIMD", "sse9"}}), InvalidArgumentError,
               "FASTGPU_SIMD is 'sse9'");
  CHECK_THROWS(options_from_environment({{"FASTGPU_REPLACE_GLOO", "yes"}}), InvalidArgumentError,
               "FASTGPU_REPLACE_GLOO is 'yes', which is not allowed; set it to 0 or 1");
}

}  // namespace
}  // namespace fastgpu::test
