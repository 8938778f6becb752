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

}  // namespace multifd::binding
