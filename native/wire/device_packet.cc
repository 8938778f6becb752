#include "wire/device_packet.h"

#include <algorithm>

#include "wire/big_endian.h"

namespace multifd {
namespace {

constexpr size_t kAtFlags = 8, kAtName = 12, kAtInstance = 268, kAtNextPacketSize = 272;

}  // namespace

void fill_device_header(std::span<uint8_t, kDeviceHeaderSize> out, std::string_view idstr,
                        uint32_t instance_id, uint32_t payload_bytes) {
  std::ranges::fill(out, uint8_t{0});
  uint8_t* const at = out.data();
  put32(at, kMultifdMagic);
  put32(at + 4, kMultifdVersion);
  put32(at + kAtFlags, kFlagDeviceState);
  std::memcpy(at + kAtName, idstr.data(), std::min(idstr.size(), kDeviceNameSize - 1));
  put32(at + kAtInstance, instance_id);
  put32(at + kAtNextPacketSize, payload_bytes);
}

bool is_device_packet(std::span<const uint8_t> front) {
  return (get32(front.data() + kAtFlags) & kFlagDeviceState) != 0;
}

Result<void> parse_device_header(std::span<const uint8_t, kDeviceHeaderSize> bytes,
                                 DeviceHeader& out) {
  const uint8_t* const at = bytes.data();
  if (auto checked = check_opening(at, ErrorCode::kProtocol); !checked) return checked;
  const uint32_t flags = get32(at + kAtFlags);
  if ((flags & kFlagSync) != 0) {
    return Error::make(ErrorCode::kProtocol,
                       "got packet flags 0x%x, expected SYNC (0x%x) and device state (0x%x) in "
                       "packets of their own",
                       flags, kFlagSync, kFlagDeviceState);
  }
  if (flags != kFlagDeviceState) {
    return Error::make(ErrorCode::kUnsupported,
                       "got packet flags 0x%x, expected 0x%x alone in a packet of device state",
                       flags, kFlagDeviceState);
  }
  if (at[kAtName] == 0 || at[kAtName + kDeviceNameSize - 1] != 0) {
    return Error::make(ErrorCode::kProtocol,
                       "got device state with a name of %s bytes, expected 1 to %zu and a NUL",
                       at[kAtName] == 0 ? "no" : "256", kDeviceNameSize - 1);
  }
  const uint32_t payload_bytes = get32(at + kAtNextPacketSize);
  if (payload_bytes == 0 || payload_bytes > kDevicePayloadMax) {
    return Error::make(ErrorCode::kProtocol,
                       "got next_packet_size %u for the state of device \"%.64s\", expected 1 to "
                       "%zu",
                       payload_bytes, reinterpret_cast<const char*>(at + kAtName),
                       kDevicePayloadMax);
  }
  std::memcpy(out.idstr_bytes.data(), at + kAtName, kDeviceNameSize);
  out.instance_id = get32(at + kAtInstance);
  out.payload_bytes = payload_bytes;
  return {};
}

}  // namespace multifd
