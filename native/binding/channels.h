#pragma once

#include <memory>
#include <vector>

#include "binding/wrapped.h"
#include "channel/listener.h"
#include "channel/receive_channel.h"
#include "channel/send_channel.h"

namespace multifd::binding {

class SendGroupWrap : public Wrapped<SendGroupWrap, std::shared_ptr<SendGroup>> {
 public:
  static constexpr auto kClass = Environment::Class::kSendGroup;
  static constexpr const char* kName = "NativeSendGroup";
  static const napi_type_tag kTag;
  static std::vector<PropertyDescriptor> methods();
  using Wrapped::Wrapped;
  // createSendGroup(ramState, {zeroPages}): what the channels of one migration share.
  static Napi::Value create(const Napi::CallbackInfo& info);

 private:
  Napi::Value probe_io_uring(const Napi::CallbackInfo& info);
  Napi::Value register_memory(const Napi::CallbackInfo& info);
  Napi::Value unregister_memory(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);
};

class SendChannelWrap : public WrappedThread<SendChannelWrap, SendChannel> {
 public:
  static constexpr auto kClass = Environment::Class::kSendChannel;
  static constexpr const char* kName = "NativeSendChannel";
  static const napi_type_tag kTag;
  static std::vector<PropertyDescriptor> methods();
  using WrappedThread::WrappedThread;
  // startSendChannel(group, {host, port | path, uuid, channelId, ..., counters}).
  static Napi::Value create(const Napi::CallbackInfo& info);

 private:
  Napi::Value submit_extent(const Napi::CallbackInfo& info);
  Napi::Value submit_sync(const Napi::CallbackInfo& info);
  Napi::Value submit_device_state(const Napi::CallbackInfo& info);
  Napi::Value submit_close(const Napi::CallbackInfo& info);
  void set_water_marks(const Napi::CallbackInfo& info);
  void set_pacing_rate(const Napi::CallbackInfo& info);
  Napi::Value acked_bytes(const Napi::CallbackInfo& info);
  Napi::Value engine_report(const Napi::CallbackInfo& info);
};

class ReceiveGroupWrap : public Wrapped<ReceiveGroupWrap, std::shared_ptr<ReceiveGroup>> {
 public:
  static constexpr auto kClass = Environment::Class::kReceiveGroup;
  static constexpr const char* kName = "NativeReceiveGroup";
  static const napi_type_tag kTag;
  static std::vector<PropertyDescriptor> methods();
  using Wrapped::Wrapped;
  // createReceiveGroup(memory): the memory must have been emptied.
  static Napi::Value create(const Napi::CallbackInfo& info);

 private:
  Napi::Value apply_zero_run(const Napi::CallbackInfo& info);
  Napi::Value apply_pages(const Napi::CallbackInfo& info);
  Napi::Value received_since_sync(const Napi::CallbackInfo& info);
  void clear_received_since_sync(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);
};

class ReceiveChannelWrap : public WrappedThread<ReceiveChannelWrap, ReceiveChannel> {
 public:
  static constexpr auto kClass = Environment::Class::kReceiveChannel;
  static constexpr const char* kName = "NativeReceiveChannel";
  static const napi_type_tag kTag;
  static std::vector<PropertyDescriptor> methods();
  using WrappedThread::WrappedThread;
  // startReceiveChannel(group, connection, {channelId, counters}).
  static Napi::Value create(const Napi::CallbackInfo& info);

 private:
  void release_sync(const Napi::CallbackInfo& info);
  Napi::Value take_device_state(const Napi::CallbackInfo& info);
};

class ListenerWrap : public WrappedThread<ListenerWrap, Listener> {
 public:
  static constexpr auto kClass = Environment::Class::kListener;
  static constexpr const char* kName = "NativeListener";
  static const napi_type_tag kTag;
  static std::vector<PropertyDescriptor> methods();
  using WrappedThread::WrappedThread;
  // startListener({host, port | path, identifyTimeoutMs}).
  static Napi::Value create(const Napi::CallbackInfo& info);

 private:
  Napi::Value port(const Napi::CallbackInfo& info);
  Napi::Value take_accepted(const Napi::CallbackInfo& info);
};

// An accepted connection that is not yet a channel.
class ConnectionWrap : public Wrapped<ConnectionWrap, std::unique_ptr<Accepted>> {
 public:
  static constexpr auto kClass = Environment::Class::kConnection;
  static constexpr const char* kName = "NativeConnection";
  static const napi_type_tag kTag;
  static std::vector<PropertyDescriptor> methods();
  using Wrapped::Wrapped;

 private:
  Napi::Value is_main(const Napi::CallbackInfo& info);
  Napi::Value channel_id(const Napi::CallbackInfo& info);
  Napi::Value uuid(const Napi::CallbackInfo& info);
  Napi::Value peer(const Napi::CallbackInfo& info);
  // releaseFd(): the number, which the caller owns from then on (libuv takes the main channel).
  Napi::Value release_fd(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);
};

}  // namespace multifd::binding
