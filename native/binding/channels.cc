#include "binding/channels.h"

#include <algorithm>
#include <optional>
#include <span>

#include "binding/channel_options.h"
#include "binding/guest_memory.h"
#include "binding/io_uring.h"
#include "binding/payload_options.h"
#include "binding/ram_state.h"
#include "binding/work.h"

namespace multifd::binding {
namespace {

Error not_ours(const char* what) {
  return Error::make(ErrorCode::kClosed, "the %s was closed, or is not one of ours", what);
}

// The bytes of a Uint8Array, where they are; nothing for any other value.
std::optional<std::span<const uint8_t>> to_bytes(const Napi::Value& value) {
  if (!value.IsTypedArray()) return std::nullopt;
  const auto array = value.As<Napi::TypedArray>();
  if (array.TypedArrayType() != napi_uint8_array) return std::nullopt;
  return std::span<const uint8_t>(value.As<Napi::Uint8Array>().Data(), array.ByteLength());
}

// Keeps several objects alive as one.
Napi::Object keep_all(Napi::Env env, std::initializer_list<Napi::Value> values) {
  Napi::Array list = Napi::Array::New(env);
  uint32_t index = 0;
  for (const Napi::Value& value : values) list.Set(index++, value);
  return list;
}

}  // namespace

const napi_type_tag SendGroupWrap::kTag = {0x6d756c7469666401, 4};
const napi_type_tag SendChannelWrap::kTag = {0x6d756c7469666401, 5};
const napi_type_tag ReceiveGroupWrap::kTag = {0x6d756c7469666401, 6};
const napi_type_tag ReceiveChannelWrap::kTag = {0x6d756c7469666401, 7};
const napi_type_tag ListenerWrap::kTag = {0x6d756c7469666401, 8};
const napi_type_tag ConnectionWrap::kTag = {0x6d756c7469666401, 9};

// SendGroup

std::vector<SendGroupWrap::PropertyDescriptor> SendGroupWrap::methods() {
  return {
      InstanceMethod("probeIoUring", &SendGroupWrap::probe_io_uring),
      InstanceMethod("registerMemory", &SendGroupWrap::register_memory),
      InstanceMethod("unregisterMemory", &SendGroupWrap::unregister_memory),
      InstanceMethod("close", &SendGroupWrap::close),
  };
}

// probeIoUring(): what was found holds for the channels started afterwards.
Napi::Value SendGroupWrap::probe_io_uring(const Napi::CallbackInfo& info) {
  return probe_io_uring_off_thread(info.Env(), [group = state_](const IoUringAbilities& found) {
    if (group) group->io_uring = found;
  });
}

// registerMemory(): before tracking is armed and before the first channel.
Napi::Value SendGroupWrap::register_memory(const Napi::CallbackInfo& info) {
  using Registered = std::shared_ptr<const RegisteredMemory>;
  auto memory = state_ ? state_->ram->memory().shared_from_this() : nullptr;
  return run_leased<Registered>(
      info.Env(), "multifd.registerMemory", std::move(memory),
      [group = state_] { return multifd::register_memory(*group->ram); },
      [group = state_](Napi::Env env, const Registered& registered) -> Napi::Value {
        group->registered = registered;
        return env.Undefined();
      });
}

// unregisterMemory(): unpinning takes 10 ms per GiB.
Napi::Value SendGroupWrap::unregister_memory(const Napi::CallbackInfo& info) {
  return run_work<bool>(
      info.Env(), "multifd.unregisterMemory",
      [group = state_]() -> Result<bool> {
        if (group) group->registered.reset();
        return true;
      },
      [](Napi::Env env, bool) { return env.Undefined(); });
}

Napi::Value SendGroupWrap::create(const Napi::CallbackInfo& info) {
  RamStateWrap* const ram = RamStateWrap::from(info[0]);
  if (ram == nullptr || !ram->state()) return to_js(info.Env(), not_ours("RAM state"));
  if (info[1].IsObject() && get_string(info[1].As<Napi::Object>(), "zeroPages") == "main") {
    if (auto collects = ram->state()->collect_zero_pages(); !collects) {
      return to_js(info.Env(), collects.error());
    }
  }
  return make(info.Env(), std::make_shared<SendGroup>(ram->state()), info[0].As<Napi::Object>());
}

void SendGroupWrap::close(const Napi::CallbackInfo&) {
  state_.reset();
  drop_kept();
}

// SendChannel

std::vector<SendChannelWrap::PropertyDescriptor> SendChannelWrap::methods() {
  auto methods = thread_methods();
  methods.insert(methods.end(),
                 {
                     InstanceMethod("submitExtent", &SendChannelWrap::submit_extent),
                     InstanceMethod("submitSync", &SendChannelWrap::submit_sync),
                     InstanceMethod("submitDeviceState", &SendChannelWrap::submit_device_state),
                     InstanceMethod("submitClose", &SendChannelWrap::submit_close),
                     InstanceMethod("setWaterMarks", &SendChannelWrap::set_water_marks),
                     InstanceMethod("setPacingRate", &SendChannelWrap::set_pacing_rate),
                     InstanceMethod("ackedBytes", &SendChannelWrap::acked_bytes),
                     InstanceMethod("engineReport", &SendChannelWrap::engine_report),
                 });
  return methods;
}

Napi::Value SendChannelWrap::create(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  SendGroupWrap* const group = SendGroupWrap::from(info[0]);
  if (group == nullptr || !group->state()) return to_js(env, not_ours("send group"));
  const auto object = info[1].As<Napi::Object>();
  auto endpoint = to_endpoint(object);
  if (!endpoint) return to_js(env, endpoint.error());
  SendChannelOptions options;
  options.endpoint = *endpoint;
  options.initial.channel_id = static_cast<uint8_t>(get_uint64(object, "channelId"));
  if (const Napi::Value uuid = object.Get("uuid"); uuid.IsTypedArray()) {
    const auto bytes = uuid.As<Napi::Uint8Array>();
    std::copy_n(bytes.Data(), std::min(bytes.ByteLength(), options.initial.uuid.size()),
                options.initial.uuid.begin());
  }
  options.connect_timeout_ms = static_cast<int>(get_uint64(object, "connectTimeoutMs"));
  const std::string engine = get_string(object, "engine");
  for (const EngineKind kind : {EngineKind::kIoUring, EngineKind::kSplice}) {
    if (engine == name_of(kind)) options.engine = kind;
  }
  options.zero_copy = get_bool(object, "zeroCopy");
  options.zero_copy_required = get_bool(object, "zeroCopyRequired");
  options.high_water_bytes = get_uint64(object, "highWaterBytes");
  options.low_water_bytes = get_uint64(object, "lowWaterBytes");
  options.zero_copy_until_bytes = get_uint64(object, "zeroCopyUntilBytes");
  options.counters = counter_cells(object, kSendCounterNames.size());
  if (options.counters == nullptr) return to_js(env, not_ours("counter array"));
  auto encoder = to_encoder(object);
  if (!encoder) return to_js(env, encoder.error());
  options.encoder = std::move(*encoder);
  if (get_bool(object, "largePackets") && !options.encoder) {
    options.packet_size = PacketSize::kLarge;
  }
  auto channel = SendChannel::start(std::move(options), group->state(),
                                    Environment::of(env).wakeup());
  if (!channel) return to_js(env, channel.error());
  return make(env, std::move(*channel), keep_all(env, {info[0], object.Get("counters")}));
}

Napi::Value SendChannelWrap::submit_extent(const Napi::CallbackInfo& info) {
  const Extent extent{static_cast<uint32_t>(to_uint64(info[0])), to_uint64(info[1]),
                      to_uint64(info[2]), to_uint64(info[3])};
  return Napi::Boolean::New(info.Env(), state_ && state_->submit_extent(extent));
}

Napi::Value SendChannelWrap::submit_sync(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), state_ && state_->submit_sync());
}

// submitDeviceState(idstr, instanceId, prefix, data): the data is sent from where it is, and its
// buffer held until the channel has sent it or is gone.
Napi::Value SendChannelWrap::submit_device_state(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!state_ || !info[0].IsString()) return Napi::Boolean::New(env, false);
  const auto prefix = to_bytes(info[2]);
  const auto data = to_bytes(info[3]);
  if (!prefix || !data) return Napi::Boolean::New(env, false);
  auto held = std::make_shared<Napi::ObjectReference>(Napi::Persistent(info[3].As<Napi::Object>()));
  SendPayload payload = DevicePacket::create(info[0].As<Napi::String>().Utf8Value(),
                                             static_cast<uint32_t>(to_uint64(info[1])), *prefix,
                                             *data, std::move(held));
  const bool valid = std::get<std::unique_ptr<DevicePacket>>(payload) != nullptr;
  return Napi::Boolean::New(env, valid && state_->submit(payload));
}

Napi::Value SendChannelWrap::submit_close(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), state_ && state_->submit_close());
}

void SendChannelWrap::set_water_marks(const Napi::CallbackInfo& info) {
  if (state_) state_->set_water_marks(to_uint64(info[0]), to_uint64(info[1]), to_uint64(info[2]));
}

void SendChannelWrap::set_pacing_rate(const Napi::CallbackInfo& info) {
  if (state_) state_->set_pacing_rate(to_uint64(info[0]));
}

Napi::Value SendChannelWrap::acked_bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(),
                           state_ ? static_cast<double>(state_->acked_bytes()) : 0.0);
}

Napi::Value SendChannelWrap::engine_report(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!state_) return env.Null();
  const EngineReport& report = state_->engine_report();
  Napi::Object object = Napi::Object::New(env);
  object.Set("engine", name_of(report.kind()));
  object.Set("mode", name_of(report.mode()));
  Napi::Array steps = Napi::Array::New(env);
  uint32_t index = 0;
  for (const std::string& step : report.steps()) steps.Set(index++, step);
  object.Set("downgrades", steps);
  return object;
}

// ReceiveGroup

std::vector<ReceiveGroupWrap::PropertyDescriptor> ReceiveGroupWrap::methods() {
  return {
      InstanceMethod("applyZeroRun", &ReceiveGroupWrap::apply_zero_run),
      InstanceMethod("applyPages", &ReceiveGroupWrap::apply_pages),
      InstanceMethod("receivedSinceSync", &ReceiveGroupWrap::received_since_sync),
      InstanceMethod("clearReceivedSinceSync", &ReceiveGroupWrap::clear_received_since_sync),
      InstanceMethod("close", &ReceiveGroupWrap::close),
  };
}

Napi::Value ReceiveGroupWrap::create(const Napi::CallbackInfo& info) {
  GuestMemoryWrap* const memory = GuestMemoryWrap::from(info[0]);
  if (memory == nullptr || !memory->state()) return to_js(info.Env(), not_ours("guest memory"));
  auto group = ReceiveGroup::create(memory->state());
  if (!group) return to_js(info.Env(), group.error());
  return make(info.Env(), std::move(*group), info[0].As<Napi::Object>());
}

void ReceiveGroupWrap::close(const Napi::CallbackInfo&) {
  state_.reset();
  drop_kept();
}

// ReceiveChannel

std::vector<ReceiveChannelWrap::PropertyDescriptor> ReceiveChannelWrap::methods() {
  auto methods = thread_methods();
  methods.push_back(InstanceMethod("releaseSync", &ReceiveChannelWrap::release_sync));
  methods.push_back(InstanceMethod("takeDeviceState", &ReceiveChannelWrap::take_device_state));
  return methods;
}

Napi::Value ReceiveChannelWrap::create(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  ReceiveGroupWrap* const group = ReceiveGroupWrap::from(info[0]);
  if (group == nullptr || !group->state()) return to_js(env, not_ours("receive group"));
  ConnectionWrap* const connection = ConnectionWrap::from(info[1]);
  if (connection == nullptr || !connection->state()) return to_js(env, not_ours("connection"));
  const auto object = info[2].As<Napi::Object>();
  ReceiveChannelOptions options;
  options.channel_id = connection->state()->initial.channel_id;
  options.counters = counter_cells(object, kReceiveCounterNames.size());
  if (options.counters == nullptr) return to_js(env, not_ours("counter array"));
  auto decoder = to_decoder(object);
  if (!decoder) return to_js(env, decoder.error());
  options.decoder = std::move(*decoder);
  if (get_bool(object, "largePackets") && !options.decoder) {
    options.packet_size = PacketSize::kLarge;
  }
  const std::unique_ptr<Accepted> accepted = std::move(connection->state());
  auto channel = ReceiveChannel::start(std::move(accepted->fd), std::move(options), group->state(),
                                       Environment::of(env).wakeup());
  if (!channel) return to_js(env, channel.error());
  return make(env, std::move(*channel), keep_all(env, {info[0], object.Get("counters")}));
}

void ReceiveChannelWrap::release_sync(const Napi::CallbackInfo&) {
  if (state_) state_->release_sync();
}

// takeDeviceState(): {idstr, instanceId, bytes}, whose memory is JavaScript's from then on; null
// when there is nothing to take.
Napi::Value ReceiveChannelWrap::take_device_state(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  ReceivedDeviceState state;
  if (!state_ || !state_->take_device_state(state)) return env.Null();
  const size_t size = state.header.payload_bytes;
  auto buffer = Napi::ArrayBuffer::New(
      env, state.bytes.release(), size,
      [](Napi::Env, void* bytes) { delete[] static_cast<uint8_t*>(bytes); });
  Napi::Object object = Napi::Object::New(env);
  const std::string_view idstr = state.header.idstr();
  object.Set("idstr", Napi::String::New(env, idstr.data(), idstr.size()));
  object.Set("instanceId", static_cast<double>(state.header.instance_id));
  object.Set("bytes", Napi::Uint8Array::New(env, size, buffer, 0));
  return object;
}

// Listener

std::vector<ListenerWrap::PropertyDescriptor> ListenerWrap::methods() {
  auto methods = thread_methods();
  methods.push_back(InstanceAccessor("port", &ListenerWrap::port, nullptr));
  methods.push_back(InstanceMethod("takeAccepted", &ListenerWrap::take_accepted));
  return methods;
}

Napi::Value ListenerWrap::create(const Napi::CallbackInfo& info) {
  const auto object = info[0].As<Napi::Object>();
  auto endpoint = to_endpoint(object);
  if (!endpoint) return to_js(info.Env(), endpoint.error());
  ListenerOptions options;
  options.endpoint = *endpoint;
  options.identify_timeout_ms = static_cast<int>(get_uint64(object, "identifyTimeoutMs"));
  auto listener = Listener::start(std::move(options), Environment::of(info.Env()).wakeup());
  if (!listener) return to_js(info.Env(), listener.error());
  return make(info.Env(), std::move(*listener));
}

Napi::Value ListenerWrap::port(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), state_ ? state_->port() : 0);
}

Napi::Value ListenerWrap::take_accepted(const Napi::CallbackInfo& info) {
  Napi::Array list = Napi::Array::New(info.Env());
  if (!state_) return list;
  uint32_t index = 0;
  for (Accepted& accepted : state_->take_accepted()) {
    list.Set(index++, ConnectionWrap::make(info.Env(),
                                           std::make_unique<Accepted>(std::move(accepted))));
  }
  return list;
}

// Connection

std::vector<ConnectionWrap::PropertyDescriptor> ConnectionWrap::methods() {
  return {
      InstanceAccessor("isMain", &ConnectionWrap::is_main, nullptr),
      InstanceAccessor("channelId", &ConnectionWrap::channel_id, nullptr),
      InstanceAccessor("uuid", &ConnectionWrap::uuid, nullptr),
      InstanceAccessor("peer", &ConnectionWrap::peer, nullptr),
      InstanceMethod("releaseFd", &ConnectionWrap::release_fd),
      InstanceMethod("close", &ConnectionWrap::close),
  };
}

Napi::Value ConnectionWrap::is_main(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), state_ && state_->is_main);
}

Napi::Value ConnectionWrap::channel_id(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), state_ ? state_->initial.channel_id : -1);
}

Napi::Value ConnectionWrap::uuid(const Napi::CallbackInfo& info) {
  auto bytes = Napi::Uint8Array::New(info.Env(), 16);
  if (state_) std::ranges::copy(state_->initial.uuid, bytes.Data());
  return bytes;
}

Napi::Value ConnectionWrap::peer(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), state_ ? state_->peer : std::string());
}

Napi::Value ConnectionWrap::release_fd(const Napi::CallbackInfo& info) {
  const int fd = state_ ? state_->fd.release() : -1;
  state_.reset();
  return Napi::Number::New(info.Env(), fd);
}

void ConnectionWrap::close(const Napi::CallbackInfo&) { state_.reset(); }

}  // namespace multifd::binding
