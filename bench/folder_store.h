// A store for the processes of one host: each key is a file in a folder.
// Thread safety: any thread or process may make any call.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

#include "comm/store.h"

namespace fastgpu {

class FolderStore : public Store {
 public:
  explicit FolderStore(std::filesystem::path folder) : folder_(std::move(folder)) {}
  void set(const std::string& key, const std::string& value) override {
    const std::string name = file_name(key);
    const std::filesystem::path unfinished = folder_ / (name + "." + std::to_string(::getpid()));
    std::ofstream(unfinished, std::ios::binary) << value;
    std::filesystem::rename(unfinished, folder_ / name);
  }
  int64_t add(const std::string& key) override {  // for a key that one process adds to
    const int64_t sum = std::stoll(try_get(key).value_or("0")) + 1;
    set(key, std::to_string(sum));
    return sum;
  }
  std::optional<std::string> try_get(const std::string& key) override {
    const std::filesystem::path path = folder_ / file_name(key);
    if (!std::filesystem::exists(path)) return std::nullopt;
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }

 private:
  static std::string file_name(std::string key) {
    std::ranges::replace(key, '/', '_');
    return "key_" + key;
  }
  const std::filesystem::path folder_;
};

}  // namespace fastgpu
