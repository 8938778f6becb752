// The packet codec of native/wire for JavaScript, for one purpose: test/wire/native-packet.test.ts
// compares it with src/wire on random input. No migration goes through here.
#pragma once

#include <napi.h>

namespace multifd::binding {

// encodeInitialPacket({uuid, channelId}): Uint8Array of 64 bytes.
Napi::Value encode_initial_packet(const Napi::CallbackInfo& info);
// parseInitialPacket(Uint8Array): {uuid, channelId}, or an error object.
Napi::Value parse_initial_packet(const Napi::CallbackInfo& info);
// encodeRamHeader({flags, packetNum, block, normal, zero}): Uint8Array of 1344 bytes, or an error
// object for more pages or a longer name than a header holds.
Napi::Value encode_ram_header(const Napi::CallbackInfo& info);
// parseRamHeader(Uint8Array, usedLength): {flags, packetNum, block, normal, zero} with packetNum as
// a BigInt and block as bytes, or an error object. Offsets are checked against usedLength.
Napi::Value parse_ram_header(const Napi::CallbackInfo& info);
// encodeDeviceHeader({idstr, instanceId, payloadBytes}): Uint8Array of 276 bytes.
Napi::Value encode_device_header(const Napi::CallbackInfo& info);
// parseDeviceHeader(Uint8Array): {idstr, instanceId, payloadBytes} with idstr as bytes, or an error
// object.
Napi::Value parse_device_header(const Napi::CallbackInfo& info);

}  // namespace multifd::binding
