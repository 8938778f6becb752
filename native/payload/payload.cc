#include "payload/payload.h"

#include <algorithm>
#include <string>

#include "base/iov.h"
#include "guest/page_ops.h"

namespace multifd {
namespace {

Result<const PayloadMethod*> find(std::span<const PayloadMethod> methods, std::string_view name) {
  std::string known;
  for (const PayloadMethod& method : methods) {
    if (name == method.name) return &method;
    if (!known.empty()) known += ", ";
    known += method.name;
  }
  return Error::make(ErrorCode::kUnsupported,
                     "there is no compression method \"%.*s\", expected one of %s",
                     static_cast<int>(std::min<size_t>(name.size(), 32)), name.data(),
                     known.c_str());
}

}  // namespace

PayloadMethod uncompressed_method() {
  return {.name = "none",
          .make_encoder = [](int) -> Result<std::unique_ptr<PayloadEncoder>> {
            return std::unique_ptr<PayloadEncoder>();
          },
          .make_decoder = []() -> Result<std::unique_ptr<PayloadDecoder>> {
            return std::unique_ptr<PayloadDecoder>();
          }};
}

Result<std::unique_ptr<PayloadEncoder>> make_encoder(std::span<const PayloadMethod> methods,
                                                     std::string_view name,
                                                     std::optional<int> level) {
  const auto found = find(methods, name);
  if (!found) return found.error();
  const PayloadMethod& method = **found;
  const int used = level.value_or(method.level_default);
  if (used < method.level_min || used > method.level_max) {
    return Error::make(ErrorCode::kLimit, "got compression level %d, expected %d to %d for %s",
                       used, method.level_min, method.level_max, method.name);
  }
  return method.make_encoder(used);
}

Result<std::unique_ptr<PayloadDecoder>> make_decoder(std::span<const PayloadMethod> methods,
                                                     std::string_view name) {
  const auto found = find(methods, name);
  if (!found) return found.error();
  return (*found)->make_decoder();
}

void copy_page_of(uint8_t* buffer, const iovec& run, size_t page) {
  copy_page(buffer, static_cast<const uint8_t*>(run.iov_base) + page * kPageSize);
}

Error payload_damaged(const char* method, const char* why) {
  return Error::make(ErrorCode::kProtocol,
                     "the %s payload of a packet is damaged: %s; expected this channel's stream to "
                     "go on",
                     method, why);
}

Error payload_short(const char* method, std::span<const iovec> runs) {
  return Error::make(ErrorCode::kProtocol,
                     "the %s payload of a packet yields too few bytes, expected %zu, for %zu pages",
                     method, bytes_of(runs), bytes_of(runs) / kPageSize);
}

Error payload_long(const char* method, std::span<const iovec> runs) {
  return Error::make(ErrorCode::kProtocol,
                     "the %s payload of a packet yields more than the %zu bytes of its %zu pages",
                     method, bytes_of(runs), bytes_of(runs) / kPageSize);
}

}  // namespace multifd
