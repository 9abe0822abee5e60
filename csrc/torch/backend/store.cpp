#include "torch/backend/store.h"

#include <c10/util/Exception.h>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "transport/socket/socket.h"

namespace fastgpu {
namespace {

template <typename Call>
std::invoke_result_t<Call> using_store(const std::string& key, Call&& call) {
  try {
    return std::forward<Call>(call)();
  } catch (const c10::Error& error) {
    raise(ErrorKind::kRendezvous,
          "the store has failed: " + std::string(error.what_without_backtrace()) + " (key '" + key +
              "'). Check that the process that serves it (rank 0, or torchrun) still runs and can "
              "be reached");
  }
}

c10::intrusive_ptr<c10d::Store> without_prefix(c10::intrusive_ptr<c10d::Store> store) {
  if (auto* prefixed = dynamic_cast<c10d::PrefixStore*>(store.get())) {
    return prefixed->getUnderlyingNonPrefixStore();
  }
  return store;
}

std::string read_key(int rank) { return "fastgpu/read/" + std::to_string(rank); }

}  // namespace

void TorchStore::set(const std::string& key, const std::string& value) {
  using_store(key, [&] { store_->set(key, value); });
}

int64_t TorchStore::add(const std::string& key) {
  return using_store(key, [&] { return store_->add(key, 1); });
}

// check() does not wait, and so it neither locks out other threads nor logs, as wait() does.
std::optional<std::string> TorchStore::try_get(const std::string& key) {
  return using_store(key, [&]() -> std::optional<std::string> {
    if (!store_->check({key})) return std::nullopt;
    return store_->get_to_str(key);
  });
}

StoreAddress address_of(const c10::intrusive_ptr<c10d::Store>& store) {
  const auto bare = without_prefix(store);
  if (auto* tcp = dynamic_cast<c10d::TCPStore*>(bare.get()))
    return {tcp->getHost(), tcp->getPort()};
  return {};
}

void tell_that_read(const c10::intrusive_ptr<c10d::Store>& store, int rank) {
  if (address_of(store).port != 0) TorchStore(store).set(read_key(rank), "");
}

void await_readers(const c10::intrusive_ptr<c10d::Store>& store, int world) {
  if (address_of(store).port == 0) return;
  TorchStore adapted(store);
  const TimeNs deadline = now_ns() + kSecond;
  try {
    for (int rank = 1; rank < world; ++rank) wait_for(adapted, read_key(rank), deadline);
  } catch (const CommError& error) {  // the store has ended, so no rank reads it
    log(LogLevel::kInfo, "store_failed", "reason=" + in_quotes(error.what()));
  }
}

void await_end_of(const c10::intrusive_ptr<c10d::Store>& store) {
  constexpr std::size_t kOwn = 2;  // the innermost prefix store, and the variable here
  const auto bare = without_prefix(store);
  auto* tcp = dynamic_cast<c10d::TCPStore*>(bare.get());
  if (tcp == nullptr || bare.use_count() > kOwn) return;
  await_end_of_listener(tcp->getHost(), tcp->getPort(), now_ns() + kSecond);
}

}  // namespace fastgpu
