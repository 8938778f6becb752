// Entry point: what the addon exports. Read it as the table of contents of native/binding.
#include <napi.h>

#include "base/census.h"
#include "binding/channels.h"
#include "binding/doctor.h"
#include "binding/environment.h"
#include "binding/guest_memory.h"
#include "binding/io_uring.h"
#include "binding/payload_options.h"
#include "binding/ram_state.h"
#include "binding/received_pages.h"
#include "binding/relay.h"
#include "binding/wire_codec.h"
#include "channel/counters.h"

namespace multifd::binding {
namespace {

template <size_t N>
Napi::Array names(Napi::Env env, const std::array<const char*, N>& list) {
  Napi::Array array = Napi::Array::New(env, N);
  for (uint32_t i = 0; i < N; ++i) array.Set(i, list[i]);
  return array;
}

void set_wakeup(const Napi::CallbackInfo& info) {
  Environment::of(info.Env()).set_wakeup(info[0].As<Napi::Function>());
}

Napi::Value drain(const Napi::CallbackInfo& info) {
  auto out = info[0].As<Napi::Float64Array>();
  const size_t used = Environment::of(info.Env()).drain(out.Data(), out.ElementLength());
  return Napi::Number::New(info.Env(), static_cast<double>(used));
}

Napi::Value census_counts(const Napi::CallbackInfo& info) {
  Napi::Object counts = Napi::Object::New(info.Env());
  for (size_t i = 0; i < kResourceNames.size(); ++i) {
    const auto held = census(static_cast<Resource>(i)).load(std::memory_order_relaxed);
    counts.Set(kResourceNames[i], static_cast<double>(held));
  }
  return counts;
}

// CPU time of the calling (JavaScript) thread, for the share it takes of a migration.
Napi::Value thread_cpu(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), thread_cpu_nanoseconds());
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Environment(env));  // freed by N-API, after the clean-up hook
  GuestMemoryWrap::define(env);
  RamStateWrap::define(env);
  DirtyLogWrap::define(env);
  SendGroupWrap::define(env);
  SendChannelWrap::define(env);
  ReceiveGroupWrap::define(env);
  ReceiveChannelWrap::define(env);
  ListenerWrap::define(env);
  ConnectionWrap::define(env);
  RelayPortsWrap::define(env);
  RelayChannelWrap::define(env);
  exports.Set("sendCounterNames", names(env, kSendCounterNames));
  exports.Set("receiveCounterNames", names(env, kReceiveCounterNames));
  exports.Set("relayPortCounterNames", names(env, kRelayPortCounterNames));
  const auto add = [&](const char* name, auto function) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  add("setWakeup", set_wakeup);
  add("drain", drain);
  add("census", census_counts);
  add("threadCpuNanoseconds", thread_cpu);
  add("probeIoUring", probe_io_uring_for_js);
  add("probePath", probe_path_of);
  add("compressionMethods", compression_methods);
  add("createGuestMemory", GuestMemoryWrap::create);
  add("guestMemoryFromToken", GuestMemoryWrap::from_token);
  add("createDirtyLog", DirtyLogWrap::create);
  add("createRamState", RamStateWrap::create);
  add("createSendGroup", SendGroupWrap::create);
  add("startSendChannel", SendChannelWrap::create);
  add("createReceiveGroup", ReceiveGroupWrap::create);
  add("startReceiveChannel", ReceiveChannelWrap::create);
  add("startListener", ListenerWrap::create);
  add("fileDataRanges", file_data_ranges);
  add("createRelayPorts", RelayPortsWrap::create);
  add("startRelayChannel", RelayChannelWrap::create);
  add("encodeInitialPacket", encode_initial_packet);
  add("parseInitialPacket", parse_initial_packet);
  add("encodeRamHeader", encode_ram_header);
  add("parseRamHeader", parse_ram_header);
  add("encodeDeviceHeader", encode_device_header);
  add("parseDeviceHeader", parse_device_header);
  return exports;
}

}  // namespace
}  // namespace multifd::binding

// N-API calls it by this name, from every environment that loads the addon.
static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  return multifd::binding::init(env, exports);
}
NODE_API_MODULE(multifd, Init)
