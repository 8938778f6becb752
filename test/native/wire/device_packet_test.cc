// Tests of the header of device-state packets: the bytes, every check, and that any bytes at all
// give a header or an error. Offsets of fields: QEMU migration/multifd.h.
#include <algorithm>
#include <array>
#include <string>

#include "check.h"
#include "wire/device_packet.h"

namespace {

using multifd::DeviceHeader;
using multifd::ErrorCode;
using multifd::kDeviceHeaderSize;
using multifd::kDevicePayloadMax;
using Bytes = std::array<uint8_t, kDeviceHeaderSize>;

Bytes filled(std::string_view idstr, uint32_t instance_id, uint32_t payload_bytes) {
  Bytes bytes;
  bytes.fill(0xAA);  // what an earlier packet left
  multifd::fill_device_header(bytes, idstr, instance_id, payload_bytes);
  return bytes;
}

TEST("the header of a device's state has QEMU's layout") {
  const Bytes bytes = filled("0000:00:02.0/vfio", 0x01020304, 0x00abcdef);
  Bytes expected{};
  const std::array<uint8_t, 12> front = {0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1, 0, 0, 0, 0x40};
  std::ranges::copy(front, expected.begin());
  std::ranges::copy(std::string("0000:00:02.0/vfio"), expected.begin() + 12);
  const std::array<uint8_t, 8> back = {1, 2, 3, 4, 0, 0xab, 0xcd, 0xef};
  std::ranges::copy(back, expected.begin() + 268);
  CHECK(bytes == expected);
  CHECK(multifd::is_device_packet(bytes));
}

TEST("the header of a device's state is parsed as it was filled") {
  for (const size_t size : {size_t{1}, size_t{254}, size_t{255}}) {
    for (const uint32_t payload_bytes : {1U, uint32_t{kDevicePayloadMax}}) {
      const std::string name(size, 'd');
      DeviceHeader header;
      CHECK_OK(multifd::parse_device_header(filled(name, ~0U, payload_bytes), header));
      CHECK(header.idstr() == name);
      CHECK_EQ(header.instance_id, ~0U);
      CHECK_EQ(header.payload_bytes, payload_bytes);
    }
  }
}

TEST("every wrong field of the header of a device's state is refused") {
  struct Case {
    size_t at;
    uint8_t value;
    ErrorCode code;
    const char* part;
  };
  const Case cases[] = {
      {0, 0x12, ErrorCode::kProtocol, "magic"},
      {7, 2, ErrorCode::kProtocol, "version"},
      {11, 0x41, ErrorCode::kProtocol, "SYNC"},
      {11, 0x43, ErrorCode::kProtocol, "SYNC"},
      {11, 0x42, ErrorCode::kUnsupported, "expected 0x40 alone"},
      {11, 0xC0, ErrorCode::kUnsupported, "expected 0x40 alone"},
      {8, 0x80, ErrorCode::kUnsupported, "expected 0x40 alone"},
      {12, 0, ErrorCode::kProtocol, "a name of no bytes"},
      {267, 'x', ErrorCode::kProtocol, "a name of 256 bytes"},
      {275, 0, ErrorCode::kProtocol, "next_packet_size 0"},
      {272, 2, ErrorCode::kProtocol, "next_packet_size 33554433 for the state of device \"vga\""},
      {272, 0xFF, ErrorCode::kProtocol, "next_packet_size 4278190081"},
  };
  for (const Case& wrong : cases) {
    Bytes bytes = filled("vga", 0, 1);
    bytes[wrong.at] = wrong.value;
    DeviceHeader header;
    const auto parsed = multifd::parse_device_header(bytes, header);
    CHECK(!parsed);
    CHECK(parsed.error().code == wrong.code);
    if (std::string(parsed.error().detail).find(wrong.part) == std::string::npos) {
      check::fail(__FILE__, __LINE__, parsed.error().detail);
    }
  }
  DeviceHeader header;
  CHECK(!multifd::parse_device_header(filled("vga", 0, kDevicePayloadMax + 1), header));
}

TEST("any bytes give a header of a device's state or an error") {
  check::Random random(check::seed());
  int accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    Bytes bytes = filled("vga", 0, 1 << 20);
    for (uint64_t change = 1 + random.below(4); change > 0; --change) {
      bytes[random.below(bytes.size())] = static_cast<uint8_t>(random.next());
    }
    DeviceHeader header;
    if (!multifd::parse_device_header(bytes, header)) continue;
    ++accepted;
    CHECK(!header.idstr().empty() && header.idstr().size() <= 255);
    CHECK(header.payload_bytes >= 1 && header.payload_bytes <= kDevicePayloadMax);
  }
  CHECK(accepted > 1000);
}

}  // namespace
