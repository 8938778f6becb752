// Work that grows with guest memory, off the JavaScript thread: one libuv work item, one promise.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "binding/convert.h"
#include "guest/guest_memory.h"

namespace multifd::binding {

// Runs `work` on a libuv thread and resolves the promise with to_value(result), or with the error
// object: native promises never reject, TypeScript decides.
template <typename T>
class PromiseWork final : public Napi::AsyncWorker {
 public:
  using Work = std::function<Result<T>()>;
  using ToValue = std::function<Napi::Value(Napi::Env, const T&)>;

  PromiseWork(Napi::Env env, const char* name, Work work, ToValue to_value)
      : Napi::AsyncWorker(env, name),
        deferred_(Napi::Promise::Deferred::New(env)),
        work_(std::move(work)),
        to_value_(std::move(to_value)) {}
  Napi::Promise promise() const { return deferred_.Promise(); }

  void Execute() override { result_.emplace(work_()); }
  void OnOK() override {
    const Napi::HandleScope scope(Env());
    if (*result_) {
      deferred_.Resolve(to_value_(Env(), **result_));
    } else {
      deferred_.Resolve(to_js(Env(), result_->error()));
    }
  }

 private:
  const Napi::Promise::Deferred deferred_;
  const Work work_;
  const ToValue to_value_;
  std::optional<Result<T>> result_;
};

template <typename T>
Napi::Promise run_work(Napi::Env env, const char* name, typename PromiseWork<T>::Work work,
                       typename PromiseWork<T>::ToValue to_value) {
  auto* const item = new PromiseWork<T>(env, name, std::move(work), std::move(to_value));
  item->Queue();  // owns itself from here
  return item->promise();
}

// Work on guest memory: whoever closes the memory meanwhile waits for it, and what had not begun by
// then gives ERR_MULTIFD_CLOSED. No memory at all (its object was closed) gives the same.
template <typename T>
Napi::Promise run_leased(Napi::Env env, const char* name, std::shared_ptr<GuestMemory> memory,
                         typename PromiseWork<T>::Work work,
                         typename PromiseWork<T>::ToValue to_value) {
  return run_work<T>(
      env, name,
      [memory = std::move(memory), work = std::move(work)]() -> Result<T> {
        if (!memory) return Error::make(ErrorCode::kClosed, "the guest memory was closed");
        const auto lease = memory->lease([] {});
        if (!lease) return lease.error();
        return work();
      },
      std::move(to_value));
}

}  // namespace multifd::binding
