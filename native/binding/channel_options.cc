#include "binding/channel_options.h"

#include "binding/convert.h"

namespace multifd::binding {

Result<Endpoint> to_endpoint(const Napi::Object& options) {
  const std::string path = get_string(options, "path");
  if (!path.empty()) return Endpoint::unix_path(path);
  return Endpoint::tcp(get_string(options, "host"),
                       static_cast<uint16_t>(get_uint64(options, "port")));
}

CounterCell* counter_cells(const Napi::Object& options, size_t count) {
  const Napi::Value value = options.Get("counters");
  if (!value.IsTypedArray()) return nullptr;
  auto cells = value.As<Napi::Float64Array>();
  if (cells.ElementLength() < count) return nullptr;
  return reinterpret_cast<CounterCell*>(cells.Data());
}

}  // namespace multifd::binding
