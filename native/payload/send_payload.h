// What a sending channel carries: nothing, pages of RAM, or the state of a device. A payload
// changes owner by swapping, never by copying: whoever submits one gets the nothing that was in the
// channel's slot, and the memory of a device's state stays where it is. What turns a payload into
// packets (ExtentSender, DeviceStateSender) gets it and an engine; there is no way from there to a
// channel's commands, locks or flow.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <variant>

#include "guest/ram_state.h"
#include "wire/device_packet.h"

namespace multifd {

// Room for what says which part of a device's state the data is; VFIO's needs 12 to 20 bytes.
inline constexpr size_t kDevicePrefixMax = 32;

// A device-state packet ready to be sent.
struct DevicePacket {
  std::array<uint8_t, kDeviceHeaderSize + kDevicePrefixMax> head;  // header and prefix
  size_t head_bytes = 0;
  std::span<const uint8_t> data;
  std::shared_ptr<const void> owner;  // holds the data's memory

  [[nodiscard]] size_t bytes() const { return head_bytes + data.size(); }
  [[nodiscard]] std::span<const uint8_t> front() const { return std::span(head).first(head_bytes); }

  // Null where the wire has no room for it: a name of 1 to 255 bytes, a prefix of at most
  // kDevicePrefixMax, and 1 to kDevicePayloadMax bytes of both together.
  static std::unique_ptr<DevicePacket> create(std::string_view idstr, uint32_t instance_id,
                                              std::span<const uint8_t> prefix,
                                              std::span<const uint8_t> data,
                                              std::shared_ptr<const void> owner);
};

using SendPayload = std::variant<std::monostate, Extent, std::unique_ptr<DevicePacket>>;

[[nodiscard]] inline bool is_device_state(const SendPayload& payload) {
  return std::holds_alternative<std::unique_ptr<DevicePacket>>(payload);
}

}  // namespace multifd
