// fastgpu_comm.Options, which a user may pass as pg_options.
// Ownership: shared with Python. Threading: not synchronised; a backend reads it when it is made.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "comm/options.h"

namespace fastgpu {

struct BackendOptions final : c10d::Backend::Options {
  BackendOptions() : c10d::Backend::Options("fastgpu") {}

  // Raises InvalidArgumentError for an unknown name or a value that is not allowed.
  void set(const std::string& name, const std::string& text);
  // Raises InvalidArgumentError for an unknown name.
  void unset(const std::string& name);
  std::optional<std::string> get(const std::string& name) const;
  // A field that is set here wins over its FASTGPU_ variable, which wins over the default.
  fastgpu::Options resolve() const;

  bool timeout_is_set = false;  // the user set the time-out: it wins over init_process_group's

 private:
  std::map<std::string, std::string> fields_;  // the fields that are set; all values are valid
};

}  // namespace fastgpu
