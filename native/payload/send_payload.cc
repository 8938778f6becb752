#include "payload/send_payload.h"

#include <algorithm>

namespace multifd {

std::unique_ptr<DevicePacket> DevicePacket::create(std::string_view idstr, uint32_t instance_id,
                                                   std::span<const uint8_t> prefix,
                                                   std::span<const uint8_t> data,
                                                   std::shared_ptr<const void> owner) {
  const bool named = !idstr.empty() && idstr.size() < kDeviceNameSize &&
                     idstr.find('\0') == std::string_view::npos;
  if (!named || prefix.size() > kDevicePrefixMax || data.size() > kDevicePayloadMax) return nullptr;
  const size_t payload_bytes = prefix.size() + data.size();
  if (payload_bytes == 0 || payload_bytes > kDevicePayloadMax) return nullptr;
  auto packet = std::make_unique<DevicePacket>();
  const std::span head(packet->head);
  fill_device_header(head.first<kDeviceHeaderSize>(), idstr, instance_id,
                     static_cast<uint32_t>(payload_bytes));
  std::ranges::copy(prefix, head.begin() + kDeviceHeaderSize);
  packet->head_bytes = kDeviceHeaderSize + prefix.size();
  packet->data = data;
  packet->owner = std::move(owner);
  return packet;
}

}  // namespace multifd
