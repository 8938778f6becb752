// What a relay between two QEMUs needs of native code: the ports to the destination, and a thread
// per multifd channel of the source.
#pragma once

#include <memory>
#include <vector>

#include "binding/wrapped.h"
#include "channel/relay_channel.h"

namespace multifd::binding {

class RelayPortsWrap : public Wrapped<RelayPortsWrap, std::shared_ptr<RelayPorts>> {
 public:
  static constexpr auto kClass = Environment::Class::kRelayPorts;
  static constexpr const char* kName = "NativeRelayPorts";
  static const napi_type_tag kTag;
  static std::vector<PropertyDescriptor> methods();
  using Wrapped::Wrapped;
  // createRelayPorts({host, port | path, ports, uuid, compression, compressionLevel,
  // connectTimeoutMs, counters}).
  static Napi::Value create(const Napi::CallbackInfo& info);

 private:
  Napi::Value connect(const Napi::CallbackInfo& info);
  void set_blocks(const Napi::CallbackInfo& info);
  Napi::Value sync_out(const Napi::CallbackInfo& info);
  Napi::Value writers(const Napi::CallbackInfo& info);
  void stop(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);
};

class RelayChannelWrap : public WrappedThread<RelayChannelWrap, RelayChannel> {
 public:
  static constexpr auto kClass = Environment::Class::kRelayChannel;
  static constexpr const char* kName = "NativeRelayChannel";
  static const napi_type_tag kTag;
  static std::vector<PropertyDescriptor> methods();
  using WrappedThread::WrappedThread;
  // startRelayChannel(ports, connection, {compression, counters}).
  static Napi::Value create(const Napi::CallbackInfo& info);

 private:
  void release_sync(const Napi::CallbackInfo& info);
};

}  // namespace multifd::binding
