#include "binding/relay.h"

#include <algorithm>

#include "binding/channel_options.h"
#include "binding/channels.h"
#include "binding/payload_options.h"
#include "binding/work.h"

namespace multifd::binding {
namespace {

Error not_ours(const char* what) {
  return Error::make(ErrorCode::kClosed, "the relay's %s were closed, or are not ours", what);
}

Result<std::vector<std::unique_ptr<PayloadEncoder>>> make_encoders(const Napi::Object& options) {
  const size_t count = std::min<size_t>(get_uint64(options, "ports"), kChannelsMax);
  std::vector<std::unique_ptr<PayloadEncoder>> encoders;
  while (encoders.size() < count) {
    auto encoder = to_encoder(options);
    if (!encoder) return encoder.error();
    encoders.push_back(std::move(*encoder));
  }
  return encoders;
}

// Runs off the JavaScript thread; resolves with undefined or the error.
struct Nothing {};
Napi::Promise run_step(Napi::Env env, const char* name, std::shared_ptr<RelayPorts> ports,
                       Result<void> (RelayPorts::*step)()) {
  return run_work<Nothing>(
      env, name,
      [ports = std::move(ports), step]() -> Result<Nothing> {
        if (!ports) return not_ours("ports");
        if (auto done = (*ports.*step)(); !done) return done.error();
        return Nothing{};
      },
      [](Napi::Env result_env, const Nothing&) -> Napi::Value { return result_env.Undefined(); });
}

}  // namespace

const napi_type_tag RelayPortsWrap::kTag = {0x6d756c7469666401, 20};
const napi_type_tag RelayChannelWrap::kTag = {0x6d756c7469666401, 21};

// RelayPorts

std::vector<RelayPortsWrap::PropertyDescriptor> RelayPortsWrap::methods() {
  return {
      InstanceMethod("connect", &RelayPortsWrap::connect),
      InstanceMethod("setBlocks", &RelayPortsWrap::set_blocks),
      InstanceMethod("syncOut", &RelayPortsWrap::sync_out),
      InstanceMethod("writers", &RelayPortsWrap::writers),
      InstanceMethod("stop", &RelayPortsWrap::stop),
      InstanceMethod("close", &RelayPortsWrap::close),
  };
}

Napi::Value RelayPortsWrap::create(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto object = info[0].As<Napi::Object>();
  auto endpoint = to_endpoint(object);
  if (!endpoint) return to_js(env, endpoint.error());
  auto encoders = make_encoders(object);
  if (!encoders) return to_js(env, encoders.error());
  RelayPortsOptions options;
  options.endpoint = *endpoint;
  if (const Napi::Value uuid = object.Get("uuid"); uuid.IsTypedArray()) {
    const auto bytes = uuid.As<Napi::Uint8Array>();
    std::copy_n(bytes.Data(), std::min(bytes.ByteLength(), options.uuid.size()),
                options.uuid.begin());
  }
  options.connect_timeout_ms = static_cast<int>(get_uint64(object, "connectTimeoutMs"));
  options.counters =
      counter_cells(object, encoders->size() * static_cast<size_t>(RelayPortCounter::kCount));
  if (options.counters == nullptr) return to_js(env, not_ours("counters"));
  auto ports = RelayPorts::create(std::move(options), std::move(*encoders));
  if (!ports) return to_js(env, ports.error());
  return make(env, std::move(*ports), object.Get("counters").As<Napi::Object>());
}

// connect(): every port, each introduced at once.
Napi::Value RelayPortsWrap::connect(const Napi::CallbackInfo& info) {
  return run_step(info.Env(), "multifd.relayConnect", state_, &RelayPorts::connect);
}

// setBlocks([{idstr, usedLength}]): before the first releaseSync() of any channel.
void RelayPortsWrap::set_blocks(const Napi::CallbackInfo& info) {
  const auto list = info[0].As<Napi::Array>();
  std::vector<RelayBlock> blocks;
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const auto block = list.Get(i).As<Napi::Object>();
    blocks.push_back({get_string(block, "idstr"), get_uint64(block, "usedLength")});
  }
  if (state_) state_->set_blocks(std::move(blocks));
}

// syncOut(): while every channel is parked.
Napi::Value RelayPortsWrap::sync_out(const Napi::CallbackInfo& info) {
  return run_step(info.Env(), "multifd.relaySync", state_, &RelayPorts::sync_out);
}

Napi::Value RelayPortsWrap::writers(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), state_ ? state_->writers() : 0);
}

void RelayPortsWrap::stop(const Napi::CallbackInfo&) {
  if (state_) state_->stop();
}

// close(): after every channel was joined; the last of them lets the sockets go.
void RelayPortsWrap::close(const Napi::CallbackInfo&) {
  if (state_) state_->stop();
  state_.reset();
  drop_kept();
}

// RelayChannel

std::vector<RelayChannelWrap::PropertyDescriptor> RelayChannelWrap::methods() {
  auto methods = thread_methods();
  methods.push_back(InstanceMethod("releaseSync", &RelayChannelWrap::release_sync));
  return methods;
}

Napi::Value RelayChannelWrap::create(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  RelayPortsWrap* const ports = RelayPortsWrap::from(info[0]);
  if (ports == nullptr || !ports->state()) return to_js(env, not_ours("ports"));
  ConnectionWrap* const connection = ConnectionWrap::from(info[1]);
  if (connection == nullptr || !connection->state()) return to_js(env, not_ours("connections"));
  const auto object = info[2].As<Napi::Object>();
  auto decoder = to_decoder(object);
  if (!decoder) return to_js(env, decoder.error());
  RelayChannelOptions options;
  options.channel_id = connection->state()->initial.channel_id;
  options.decoder = std::move(*decoder);
  options.counters = counter_cells(object, static_cast<size_t>(ReceiveCounter::kCount));
  if (options.counters == nullptr) return to_js(env, not_ours("counters"));
  const std::unique_ptr<Accepted> accepted = std::move(connection->state());
  auto channel = RelayChannel::start(std::move(accepted->fd), std::move(options), ports->state(),
                                     Environment::of(env).wakeup());
  if (!channel) return to_js(env, channel.error());
  // The ports' counters live as long as their object does.
  Napi::Array kept = Napi::Array::New(env, 2);
  kept.Set(0U, info[0]);
  kept.Set(1U, object.Get("counters"));
  return make(env, std::move(*channel), kept);
}

void RelayChannelWrap::release_sync(const Napi::CallbackInfo&) {
  if (state_) state_->release_sync();
}

}  // namespace multifd::binding
