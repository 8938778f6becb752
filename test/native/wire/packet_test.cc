// Tests of the packet codec: what is filled is parsed again, every check is there, and any bytes at
// all give a header or an error. Offsets of fields: QEMU migration/multifd.h.
#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "guest/page.h"
#include "wire/packet.h"

namespace {

using multifd::Error;
using multifd::ErrorCode;
using multifd::InitialPacket;
using multifd::kPacketPagesMax;
using multifd::kPageSize;
using multifd::RamHeader;
using multifd::RamPacket;
using multifd::Result;

using InitialBytes = std::array<uint8_t, multifd::kInitialPacketSize>;
using HeaderBytes = std::array<uint8_t, multifd::kRamHeaderSize>;

void put32(uint8_t* at, uint32_t value) {
  for (int i = 0; i < 4; ++i) at[i] = static_cast<uint8_t>(value >> (24 - 8 * i));
}

std::vector<uint64_t> offsets(size_t count, uint64_t first_page) {
  std::vector<uint64_t> list(count);
  for (size_t i = 0; i < count; ++i) list[i] = (first_page + i) * kPageSize;
  return list;
}

HeaderBytes filled(const RamPacket& packet) {
  HeaderBytes bytes;
  bytes.fill(0xAA);  // what an earlier packet left
  multifd::fill_ram_header(bytes, packet);
  return bytes;
}

HeaderBytes example() {
  const auto normal = offsets(3, 8);
  const auto zero = offsets(2, 100);
  return filled({.flags = 0, .packet_num = 7, .block = "pc.ram", .normal = normal, .zero = zero});
}

void expect_error(const HeaderBytes& bytes, ErrorCode code, const char* part) {
  RamHeader header;
  const Result<void> parsed = multifd::parse_ram_header(bytes, header);
  CHECK(!parsed);
  CHECK(parsed.error().code == code);
  if (std::string(parsed.error().detail).find(part) == std::string::npos) {
    check::fail(__FILE__, __LINE__,
                std::string("\"") + parsed.error().detail + "\" lacks \"" + part + "\"");
  }
}

TEST("an initial packet is parsed as it was filled, and its reserved bytes are zero") {
  InitialPacket packet;
  for (size_t i = 0; i < packet.uuid.size(); ++i) packet.uuid[i] = static_cast<uint8_t>(0xF0 + i);
  packet.channel_id = 254;
  InitialBytes bytes;
  bytes.fill(0xAA);
  multifd::fill_initial_packet(bytes, packet);
  const std::array<uint8_t, 8> front = {0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1};
  CHECK(std::equal(front.begin(), front.end(), bytes.begin()));
  CHECK(std::all_of(bytes.begin() + 25, bytes.end(), [](uint8_t byte) { return byte == 0; }));
  auto parsed = multifd::parse_initial_packet(bytes);
  CHECK_OK(parsed);
  CHECK(parsed->uuid == packet.uuid);
  CHECK_EQ(unsigned{parsed->channel_id}, 254U);
}

TEST("an initial packet with another magic or version is refused") {
  InitialBytes bytes;
  multifd::fill_initial_packet(bytes, {});
  bytes[3] = 0x45;
  CHECK(!multifd::parse_initial_packet(bytes));
  multifd::fill_initial_packet(bytes, {});
  bytes[7] = 2;
  const auto parsed = multifd::parse_initial_packet(bytes);
  CHECK(!parsed);
  CHECK(parsed.error().code == ErrorCode::kHandshake);
}

TEST("an initial packet of channel 255, which never exists, is refused") {
  InitialBytes bytes;
  multifd::fill_initial_packet(bytes, {.uuid = {}, .channel_id = 255});
  const auto parsed = multifd::parse_initial_packet(bytes);
  CHECK(!parsed);
  CHECK(parsed.error().code == ErrorCode::kHandshake);
}

TEST("a RAM header is parsed as it was filled, for every mix of normal and zero pages") {
  for (uint32_t normal_count = 0; normal_count <= kPacketPagesMax; normal_count += 16) {
    for (uint32_t zero_count = 0; normal_count + zero_count <= kPacketPagesMax; zero_count += 8) {
      const auto normal = offsets(normal_count, 1);
      const auto zero = offsets(zero_count, 5000);
      const HeaderBytes bytes = filled({.flags = 0,
                                        .packet_num = 1ULL << 40,
                                        .block = "pc.ram",
                                        .normal = normal,
                                        .zero = zero});
      RamHeader header;
      CHECK_OK(multifd::parse_ram_header(bytes, header));
      CHECK_EQ(header.packet_num, 1ULL << 40);
      CHECK_EQ(header.normal_pages, normal_count);
      CHECK_EQ(header.zero_pages, zero_count);
      if (header.pages() > 0) CHECK_EQ(header.block(), "pc.ram");
      CHECK(std::equal(normal.begin(), normal.end(), header.offsets.begin()));
      CHECK(std::equal(zero.begin(), zero.end(), header.offsets.begin() + normal_count));
    }
  }
}

TEST("a large packet has room for 472 pages, and its header is a page long") {
  std::array<uint8_t, multifd::kLargeRamHeaderSize> bytes;
  const auto normal = offsets(multifd::kLargePacketPages - 7, 1);
  const auto zero = offsets(7, 5000);
  multifd::fill_ram_header(
      bytes, {.flags = 0, .packet_num = 3, .block = "pc.ram", .normal = normal, .zero = zero});
  RamHeader header;
  CHECK_OK(multifd::parse_ram_header(bytes, header));
  CHECK_EQ(header.normal_pages, multifd::kLargePacketPages - 7);
  CHECK_EQ(header.zero_pages, 7U);
  CHECK_EQ(header.payload_bytes, normal.size() * kPageSize);
  CHECK(std::equal(normal.begin(), normal.end(), header.offsets.begin()));
  CHECK(std::equal(zero.begin(), zero.end(), header.offsets.begin() + header.normal_pages));
  // A packet of QEMU's size has room for 128, whatever it says.
  CHECK(!multifd::parse_ram_header(std::span(bytes).first<multifd::kRamHeaderSize>(), header));
  put32(&bytes[12], multifd::kLargePacketPages + 1);
  CHECK(!multifd::parse_ram_header(bytes, header));
}

TEST("a SYNC packet is zero from pages_alloc on, but for its number") {
  HeaderBytes bytes = filled({.flags = multifd::kFlagSync,
                              .packet_num = 0x0102030405060708ULL,
                              .block = {},
                              .normal = {},
                              .zero = {}});
  RamHeader header;
  CHECK_OK(multifd::parse_ram_header(bytes, header));
  CHECK_EQ(header.flags, multifd::kFlagSync);
  CHECK_EQ(header.pages(), 0U);
  const std::array<uint8_t, 8> number = {1, 2, 3, 4, 5, 6, 7, 8};
  CHECK(std::equal(number.begin(), number.end(), bytes.begin() + 24));
  std::fill_n(bytes.begin() + 24, 8, uint8_t{0});
  CHECK(std::all_of(bytes.begin() + 12, bytes.end(), [](uint8_t byte) { return byte == 0; }));
}

TEST("a stale next_packet_size is ignored where there is no payload, as QEMU 7.2 sends it") {
  const auto zero = offsets(4, 1);
  HeaderBytes bytes = filled(
      {.flags = 0, .packet_num = 1, .block = "pc.ram", .normal = {}, .zero = zero});
  put32(&bytes[20], 128 * kPageSize);
  RamHeader header;
  CHECK_OK(multifd::parse_ram_header(bytes, header));
  bytes = filled(
      {.flags = multifd::kFlagSync, .packet_num = 1, .block = {}, .normal = {}, .zero = {}});
  put32(&bytes[20], 0xFFFFFFFF);
  put32(&bytes[12], kPacketPagesMax);
  CHECK_OK(multifd::parse_ram_header(bytes, header));
}

TEST("every check of a RAM header refuses what it is there for") {
  struct Case {
    size_t at;
    uint32_t value;
    ErrorCode code;
    const char* part;
  };
  const Case cases[] = {
      {0, 0x11223345, ErrorCode::kProtocol, "magic"},
      {4, 2, ErrorCode::kProtocol, "version"},
      {8, 0x02, ErrorCode::kUnsupported, "flags"},  // zlib
      {8, 0x40, ErrorCode::kUnsupported, "flags"},  // device state
      {8, 0x80000000, ErrorCode::kUnsupported, "flags"},
      {12, kPacketPagesMax + 1, ErrorCode::kProtocol, "pages_alloc"},
      {12, 4, ErrorCode::kProtocol, "pages"},  // 3 + 2 pages are more than 4
      {16, 0xFFFFFFFF, ErrorCode::kProtocol, "pages"},
      {32, 0xFFFFFFFE, ErrorCode::kProtocol, "pages"},  // 3 + this wraps to 1
      {32, kPacketPagesMax - 2, ErrorCode::kProtocol, "pages"},
      {20, 0, ErrorCode::kProtocol, "next_packet_size"},
      {20, 3 * kPageSize - 1, ErrorCode::kProtocol, "next_packet_size"},
  };
  for (const Case& wrong : cases) {
    HeaderBytes bytes = example();
    put32(&bytes[wrong.at], wrong.value);
    expect_error(bytes, wrong.code, wrong.part);
  }
}

TEST("a block name without an end is read up to 255 bytes and no further") {
  HeaderBytes bytes = example();
  std::fill_n(bytes.begin() + 64, multifd::kBlockNameSize, uint8_t{'x'});
  RamHeader header;
  CHECK_OK(multifd::parse_ram_header(bytes, header));
  CHECK_EQ(header.block().size(), multifd::kBlockNameSize - 1);
  const Result<void> checked = multifd::check_offsets(header, kPageSize);
  CHECK(!checked);  // its sentence quotes the name
}

TEST("an offset must be a page of the block") {
  RamHeader header;
  CHECK_OK(multifd::parse_ram_header(example(), header));
  CHECK_OK(multifd::check_offsets(header, 102 * kPageSize));
  CHECK(!multifd::check_offsets(header, 101 * kPageSize));
  CHECK(!multifd::check_offsets(header, kPageSize));
  header.offsets[1] += 1;
  CHECK(!multifd::check_offsets(header, 102 * kPageSize));
  for (const uint64_t wrong : {~uint64_t{0}, ~uint64_t{0} - 4095, uint64_t{1} << 63}) {
    header.offsets[1] = wrong;
    CHECK(!multifd::check_offsets(header, 102 * kPageSize));
  }
}

TEST("any bytes give a header or an error, and a header keeps its bounds") {
  check::Random random(check::seed());
  for (int i = 0; i < 20'000; ++i) {
    HeaderBytes bytes = example();
    const uint64_t changes = 1 + random.below(8);
    for (uint64_t change = 0; change < changes; ++change) {
      // Half of them in the fixed part, where the checks are.
      const size_t size = random.below(2) == 0 ? 64 : bytes.size();
      bytes[random.below(size)] = static_cast<uint8_t>(random.next());
    }
    RamHeader header;
    if (!multifd::parse_ram_header(bytes, header)) continue;
    CHECK(header.pages() <= kPacketPagesMax);
    CHECK(header.block().size() < multifd::kBlockNameSize);
    if (!multifd::check_offsets(header, 64 * kPageSize)) continue;
    for (uint32_t page = 0; page < header.pages(); ++page) {
      CHECK(header.offsets[page] + kPageSize <= 64 * kPageSize);
    }
  }
}

}  // namespace
