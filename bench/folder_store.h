// A store for the processes of one host: each key is a file in a folder.
// Thread safety: any thread or process may make any call.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <utility>

#include "base/error.h"
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
  std::string get(const std::string& key, TimeNs deadline) override {
    const std::filesystem::path path = folder_ / file_name(key);
    while (!std::filesystem::exists(path)) {
      if (now_ns() > deadline) raise(ErrorKind::kRendezvous, "no rank set the key " + key);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
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
