#pragma once

#include <memory>
#include <vector>

#include "binding/wrapped.h"
#include "guest/guest_memory.h"

namespace multifd::binding {

class GuestMemoryWrap : public Wrapped<GuestMemoryWrap, std::shared_ptr<GuestMemory>> {
 public:
  static constexpr auto kClass = Environment::Class::kGuestMemory;
  static constexpr const char* kName = "NativeGuestMemory";
  static const napi_type_tag kTag;
  static std::vector<PropertyDescriptor> methods();
  using Wrapped::Wrapped;

  // createGuestMemory([{idstr, kind, sizeBytes, ...}]) and guestMemoryFromToken(token).
  static Napi::Value create(const Napi::CallbackInfo& info);
  static Napi::Value from_token(const Napi::CallbackInfo& info);

 private:
  Napi::Value token(const Napi::CallbackInfo& info);
  Napi::Value blocks(const Napi::CallbackInfo& info);
  Napi::Value empty(const Napi::CallbackInfo& info);
  Napi::Value discard(const Napi::CallbackInfo& info);
  Napi::Value view(const Napi::CallbackInfo& info);
  Napi::Value populated_bytes(const Napi::CallbackInfo& info);
  Napi::Value is_at(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);

  double token_ = 0;
  bool is_owner_ = false;  // made here, not found by its token
};

}  // namespace multifd::binding
