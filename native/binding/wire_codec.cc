#include "binding/wire_codec.h"

#include <algorithm>
#include <string>
#include <vector>

#include "binding/convert.h"
#include "wire/device_packet.h"
#include "wire/packet.h"

namespace multifd::binding {
namespace {

// The bytes of `value` as exactly `Size` of them, or an error.
template <size_t Size>
Result<std::span<const uint8_t, Size>> exactly(const Napi::Value& value) {
  const bool is_bytes = value.IsTypedArray();
  const size_t size = is_bytes ? value.As<Napi::TypedArray>().ByteLength() : 0;
  if (size != Size) {
    return Error::make(ErrorCode::kProtocol, "got %zu bytes, expected %zu", size, Size);
  }
  return std::span<const uint8_t, Size>(value.As<Napi::Uint8Array>().Data(), Size);
}

std::vector<uint64_t> to_offsets(const Napi::Value& value) {
  std::vector<uint64_t> offsets;
  if (!value.IsArray()) return offsets;
  const auto list = value.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) offsets.push_back(to_uint64(list.Get(i)));
  return offsets;
}

Napi::Array to_array(Napi::Env env, std::span<const uint64_t> offsets) {
  Napi::Array list = Napi::Array::New(env, offsets.size());
  for (uint32_t i = 0; i < offsets.size(); ++i) list.Set(i, static_cast<double>(offsets[i]));
  return list;
}

template <typename Bytes>
Napi::Uint8Array to_bytes(Napi::Env env, const Bytes& bytes) {
  auto copy = Napi::Uint8Array::New(env, bytes.size());
  std::copy(bytes.begin(), bytes.end(), copy.Data());
  return copy;
}

}  // namespace

Napi::Value encode_initial_packet(const Napi::CallbackInfo& info) {
  const auto object = info[0].As<Napi::Object>();
  auto uuid = exactly<16>(object.Get("uuid"));
  if (!uuid) return to_js(info.Env(), uuid.error());
  InitialPacket packet;
  std::ranges::copy(*uuid, packet.uuid.begin());
  packet.channel_id = static_cast<uint8_t>(get_uint64(object, "channelId"));
  std::array<uint8_t, kInitialPacketSize> bytes;
  fill_initial_packet(bytes, packet);
  return to_bytes(info.Env(), bytes);
}

Napi::Value parse_initial_packet(const Napi::CallbackInfo& info) {
  auto bytes = exactly<kInitialPacketSize>(info[0]);
  if (!bytes) return to_js(info.Env(), bytes.error());
  auto packet = multifd::parse_initial_packet(*bytes);
  if (!packet) return to_js(info.Env(), packet.error());
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("uuid", to_bytes(info.Env(), packet->uuid));
  object.Set("channelId", static_cast<double>(packet->channel_id));
  return object;
}

Napi::Value encode_ram_header(const Napi::CallbackInfo& info) {
  const auto object = info[0].As<Napi::Object>();
  const std::string block = get_string(object, "block");
  const std::vector<uint64_t> normal = to_offsets(object.Get("normal"));
  const std::vector<uint64_t> zero = to_offsets(object.Get("zero"));
  if (normal.size() + zero.size() > kPacketPagesMax || block.size() >= kBlockNameSize) {
    return to_js(info.Env(), Error::make(ErrorCode::kLimit,
                                         "got %zu pages and a name of %zu bytes, expected at most "
                                         "%u and %zu",
                                         normal.size() + zero.size(), block.size(),
                                         kPacketPagesMax, kBlockNameSize - 1));
  }
  RamPacket packet;
  packet.flags = static_cast<uint32_t>(get_uint64(object, "flags"));
  packet.packet_num = get_uint64(object, "packetNum");
  packet.block = block;
  packet.normal = normal;
  packet.zero = zero;
  packet.compressed_bytes = static_cast<uint32_t>(get_uint64(object, "payloadBytes"));
  std::array<uint8_t, kRamHeaderSize> bytes;
  fill_ram_header(bytes, packet);
  return to_bytes(info.Env(), bytes);
}

Napi::Value parse_ram_header(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto bytes = exactly<kRamHeaderSize>(info[0]);
  if (!bytes) return to_js(env, bytes.error());
  RamHeader header;
  const auto compression_flag = static_cast<uint32_t>(to_uint64(info[2]));
  if (auto parsed = multifd::parse_ram_header(*bytes, header, compression_flag); !parsed) {
    return to_js(env, parsed.error());
  }
  if (auto checked = check_offsets(header, to_uint64(info[1])); !checked) {
    return to_js(env, checked.error());
  }
  const std::span<const uint64_t> offsets(header.offsets.data(), header.pages());
  Napi::Object object = Napi::Object::New(env);
  object.Set("flags", static_cast<double>(header.flags));
  object.Set("payloadBytes", static_cast<double>(header.payload_bytes));
  object.Set("packetNum", Napi::BigInt::New(env, header.packet_num));
  object.Set("block", to_bytes(env, header.block()));
  object.Set("normal", to_array(env, offsets.first(header.normal_pages)));
  object.Set("zero", to_array(env, offsets.subspan(header.normal_pages)));
  return object;
}

Napi::Value encode_device_header(const Napi::CallbackInfo& info) {
  const auto object = info[0].As<Napi::Object>();
  std::array<uint8_t, kDeviceHeaderSize> bytes;
  fill_device_header(bytes, get_string(object, "idstr"),
                     static_cast<uint32_t>(get_uint64(object, "instanceId")),
                     static_cast<uint32_t>(get_uint64(object, "payloadBytes")));
  return to_bytes(info.Env(), bytes);
}

Napi::Value parse_device_header(const Napi::CallbackInfo& info) {
  auto bytes = exactly<kDeviceHeaderSize>(info[0]);
  if (!bytes) return to_js(info.Env(), bytes.error());
  DeviceHeader header;
  if (auto parsed = multifd::parse_device_header(*bytes, header); !parsed) {
    return to_js(info.Env(), parsed.error());
  }
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("idstr", to_bytes(info.Env(), header.idstr()));
  object.Set("instanceId", static_cast<double>(header.instance_id));
  object.Set("payloadBytes", static_cast<double>(header.payload_bytes));
  return object;
}

}  // namespace multifd::binding
