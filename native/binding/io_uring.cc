#include "binding/io_uring.h"

#include "binding/work.h"

namespace multifd::binding {
namespace {

Napi::Object to_object(Napi::Env env, const IoUringAbilities& abilities) {
  Napi::Object object = Napi::Object::New(env);
  const auto set = [&](const char* name, const Ability& ability) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("there", ability.there);
    entry.Set("reason", static_cast<const char*>(ability.reason));
    object.Set(name, entry);
  };
  set("ioUring", abilities.io_uring);
  set("sendZeroCopy", abilities.send_zero_copy);
  set("sendmsgZeroCopy", abilities.sendmsg_zero_copy);
  set("usageReport", abilities.usage_report);
  set("fixedSend", abilities.fixed_send);
  set("fixedSendmsg", abilities.fixed_sendmsg);
  set("cloneBuffers", abilities.clone_buffers);
  object.Set("setupFlags", abilities.setup_flags);
  return object;
}

}  // namespace

Napi::Promise probe_io_uring_off_thread(Napi::Env env,
                                        std::function<void(const IoUringAbilities&)> found) {
  return run_work<IoUringAbilities>(
      env, "multifd.probeIoUring", []() -> Result<IoUringAbilities> { return probe_io_uring(); },
      [found = std::move(found)](Napi::Env on, const IoUringAbilities& abilities) -> Napi::Value {
        found(abilities);
        return to_object(on, abilities);
      });
}

Napi::Value probe_io_uring_for_js(const Napi::CallbackInfo& info) {
  return probe_io_uring_off_thread(info.Env(), [](const IoUringAbilities&) {});
}

}  // namespace multifd::binding
