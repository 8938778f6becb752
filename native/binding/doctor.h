// What `multifd doctor` tries on this machine: N-API over native/engine/path_probe. Each call works
// on a libuv thread and keeps nothing.
#pragma once

#include <napi.h>

namespace multifd::binding {

// probePath(interface name): Promise<{ verdict, reason, payloadBytes }>.
Napi::Value probe_path_of(const Napi::CallbackInfo& info);

}  // namespace multifd::binding
