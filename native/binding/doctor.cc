#include "binding/doctor.h"

#include <string>
#include <utility>

#include "binding/work.h"
#include "engine/path_probe.h"

namespace multifd::binding {
namespace {

Napi::Value to_js(Napi::Env env, const PathProbe& probe) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("verdict", kPathVerdictNames[static_cast<size_t>(probe.verdict)]);
  object.Set("reason", static_cast<const char*>(probe.reason));
  object.Set("payloadBytes", static_cast<double>(probe.payload_bytes));
  return object;
}

}  // namespace

Napi::Value probe_path_of(const Napi::CallbackInfo& info) {
  std::string name = info[0].IsString() ? info[0].As<Napi::String>().Utf8Value() : std::string();
  return run_work<PathProbe>(
      info.Env(), "multifd.probePath",
      [name = std::move(name)]() -> Result<PathProbe> { return probe_path(name.c_str()); },
      [](Napi::Env env, const PathProbe& probe) { return to_js(env, probe); });
}

}  // namespace multifd::binding
