#include "binding/payload_options.h"

#include <algorithm>

#include "binding/convert.h"
#include "payload/methods.h"

namespace multifd::binding {
namespace {

std::string method_name(const Napi::Object& options) {
  std::string name = get_string(options, "compression");
  return name.empty() ? "none" : name;
}

}  // namespace

Result<std::unique_ptr<PayloadEncoder>> to_encoder(const Napi::Object& options) {
  std::optional<int> level;
  if (options.Get("compressionLevel").IsNumber()) {
    // What is no int is no level either; NaN is the lowest.
    const double number = get_number(options, "compressionLevel");
    level = number > -1000 ? static_cast<int>(std::min(number, 1000.0)) : -1000;
  }
  return make_encoder(payload_methods(), method_name(options), level);
}

Result<std::unique_ptr<PayloadDecoder>> to_decoder(const Napi::Object& options) {
  return make_decoder(payload_methods(), method_name(options));
}

Napi::Value compression_methods(const Napi::CallbackInfo& info) {
  Napi::Array list = Napi::Array::New(info.Env());
  uint32_t index = 0;
  for (const PayloadMethod& method : payload_methods()) {
    const auto decoder = method.make_decoder();
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("name", method.name);
    object.Set("flag", static_cast<double>(method.flag));
    object.Set("levelMin", method.level_min);
    object.Set("levelMax", method.level_max);
    object.Set("levelDefault", method.level_default);
    object.Set("reason", decoder ? "" : static_cast<const char*>(decoder.error().detail));
    list.Set(index++, object);
  }
  return list;
}

}  // namespace multifd::binding
