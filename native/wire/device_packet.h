// QEMU's device-state packet, the other header a multifd channel may carry (QEMU 10.0 and newer):
// fill and parse, byte-identical to src/wire/device-packet.ts. Pure bytes; what the payload says is
// between the two ends of a device. Sizes and offsets: QEMU migration/multifd.h,
// MultiFDPacketDeviceState_t.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"
#include "wire/packet.h"

namespace multifd {

inline constexpr size_t kDeviceHeaderSize = 276;
inline constexpr size_t kDeviceNameSize = 256;  // NUL-terminated: the last of them is 0
// Of a payload: 16 MiB of a device's data behind three words that say which part of it they are.
inline constexpr size_t kDevicePayloadMax = (size_t{16} << 20) + 12;

// Whose state the payload behind the header is, and how long that is.
struct DeviceHeader {
  std::array<char, kDeviceNameSize> idstr_bytes{};
  uint32_t instance_id = 0;
  uint32_t payload_bytes = 0;

  [[nodiscard]] std::string_view idstr() const { return idstr_bytes.data(); }
};

// `idstr` has 1 to 255 bytes, none of them NUL.
void fill_device_header(std::span<uint8_t, kDeviceHeaderSize> out, std::string_view idstr,
                        uint32_t instance_id, uint32_t payload_bytes);
// Of the front of a packet, whose magic and version are not looked at yet.
[[nodiscard]] bool is_device_packet(std::span<const uint8_t> front);
// Checks every field. `out` is what it was if one of them is wrong.
Result<void> parse_device_header(std::span<const uint8_t, kDeviceHeaderSize> bytes,
                                 DeviceHeader& out);

}  // namespace multifd
