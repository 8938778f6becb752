#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "binding/wrapped.h"
#include "guest/ram_state.h"

namespace multifd::binding {


// The source's book of rounds, and the tracker in it.
class RamStateWrap : public Wrapped<RamStateWrap, std::shared_ptr<RamState>> {
 public:
  static constexpr auto kClass = Environment::Class::kRamState;
  static constexpr const char* kName = "NativeRamState";
  static const napi_type_tag kTag;
  static std::vector<PropertyDescriptor> methods();
  using Wrapped::Wrapped;

  // createRamState(memory, "userfaultfd" | "hash" | DirtyLog).
  static Napi::Value create(const Napi::CallbackInfo& info);

 private:
  Napi::Value tracker(const Napi::CallbackInfo& info);
  Napi::Value start(const Napi::CallbackInfo& info);
  Napi::Value scan(Napi::Env env, std::function<Result<uint64_t>(RamState&)> work);
  Napi::Value begin_round(const Napi::CallbackInfo& info);
  Napi::Value extend_round(const Napi::CallbackInfo& info);
  Napi::Value give_back(const Napi::CallbackInfo& info);
  Napi::Value plan(const Napi::CallbackInfo& info);
  Napi::Value take_zero_runs(const Napi::CallbackInfo& info);
  Napi::Value collect_into_next(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);
};

// Dirty bits from the VMM, by range or as KVM's bitmap bytes.
class DirtyLogWrap : public Wrapped<DirtyLogWrap, VmmTracker> {
 public:
  static constexpr auto kClass = Environment::Class::kDirtyLog;
  static constexpr const char* kName = "NativeDirtyLog";
  static const napi_type_tag kTag;
  static std::vector<PropertyDescriptor> methods();
  using Wrapped::Wrapped;

  // createDirtyLog(memory).
  static Napi::Value create(const Napi::CallbackInfo& info);

 private:
  void mark(const Napi::CallbackInfo& info);
  void or_bytes(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);
};

}  // namespace multifd::binding
