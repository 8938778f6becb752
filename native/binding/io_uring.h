// What the probe of io_uring found, as JavaScript sees it; for send groups and `multifd doctor`.
#pragma once

#include <napi.h>

#include <functional>

#include "engine/probe.h"

namespace multifd::binding {

// Probes on a libuv thread; `found` runs on the JavaScript thread before the promise resolves.
Napi::Promise probe_io_uring_off_thread(Napi::Env env,
                                        std::function<void(const IoUringAbilities&)> found);

// probeIoUring(): Promise<abilities>.
Napi::Value probe_io_uring_for_js(const Napi::CallbackInfo& info);

}  // namespace multifd::binding
