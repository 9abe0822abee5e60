// fastgpu_comm.Options: what a user may give as pg_options.
// Ownership: shared with Python. Threading: not synchronised; read when a backend is made.
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

  // Raises InvalidArgumentError that says what is allowed.
  void set(const std::string& name, const std::string& text);
  std::optional<std::string> get(const std::string& name) const;
  // The fields set here, over the FASTGPU_ variables, over the defaults.
  fastgpu::Options resolve() const;

  bool timeout_is_set = false;  // by the user: it wins over init_process_group's

 private:
  std::map<std::string, std::string> fields_;  // those set, valid
};

}  // namespace fastgpu
