#include "binding/convert.h"

#include <algorithm>

namespace multifd::binding {
namespace {

const char* code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kProtocol: return "ERR_MULTIFD_PROTOCOL";
    case ErrorCode::kHandshake: return "ERR_MULTIFD_HANDSHAKE";
    case ErrorCode::kChannel: return "ERR_MULTIFD_CHANNEL";
    case ErrorCode::kPeerClosed: return "ERR_MULTIFD_PEER_CLOSED";
    case ErrorCode::kUnsupported: return "ERR_MULTIFD_UNSUPPORTED";
    case ErrorCode::kLimit: return "ERR_MULTIFD_LIMIT";
    case ErrorCode::kTimeout: return "ERR_MULTIFD_TIMEOUT";
    case ErrorCode::kState: return "ERR_MULTIFD_STATE";
    case ErrorCode::kClosed: return "ERR_MULTIFD_CLOSED";
  }
  return "ERR_MULTIFD_CHANNEL";
}

}  // namespace

Napi::Object to_js(Napi::Env env, const Error& error) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("code", code_name(error.code));
  object.Set("detail", static_cast<const char*>(error.detail));
  object.Set("errno", error.errno_value);
  if (error.syscall != nullptr) object.Set("syscall", error.syscall);
  return object;
}

double get_number(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  return value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : 0;
}

uint64_t get_uint64(const Napi::Object& object, const char* name) {
  return to_uint64(object.Get(name));
}

std::string get_string(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  return value.IsString() ? value.As<Napi::String>().Utf8Value() : std::string();
}

bool get_bool(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  return value.IsBoolean() && value.As<Napi::Boolean>().Value();
}

uint64_t to_uint64(const Napi::Value& value) {
  if (!value.IsNumber()) return 0;
  const double number = value.As<Napi::Number>().DoubleValue();
  // 2^53: beyond it a double is no whole number of bytes any more. NaN compares false.
  return number > 0 ? static_cast<uint64_t>(std::min(number, 9007199254740992.0)) : 0;
}

}  // namespace multifd::binding
