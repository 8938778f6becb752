// QEMU's multifd packets on the hot path: fill and parse, byte-identical to src/wire/packet.ts.
// Pure bytes: no sockets, no guest memory. Sizes and offsets: QEMU migration/multifd.h,
// MultiFDInit_t and MultiFDPacket_t.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"

namespace multifd {

inline constexpr uint32_t kMultifdMagic = 0x11223344;
inline constexpr uint32_t kMultifdVersion = 1;
inline constexpr uint32_t kQemuFileMagic = 0x5145564D;  // "QEVM", opens the main channel

inline constexpr uint32_t kFlagSync = 0x01;
inline constexpr uint32_t kFlagCompressionMask = 0x3E;
inline constexpr uint32_t kFlagDeviceState = 0x40;

inline constexpr size_t kInitialPacketSize = 64;
// QEMU's range of multifd-channels is 1 to 255, so channel 255 never exists.
inline constexpr unsigned kChannelsMax = 255;
// MULTIFD_PACKET_SIZE (512 KiB) over the page size.
inline constexpr uint32_t kPacketPagesMax = 128;
// Behind the fixed part of a RAM packet's header there is a slot for each page it has room for.
constexpr size_t ram_header_size(uint32_t pages) { return 320 + size_t{8} * pages; }
inline constexpr size_t kRamHeaderSize = ram_header_size(kPacketPagesMax);
// Between our own ends, uncompressed: with so many slots the header is one page long, so that all
// pages of a stream have one and the same place within the kernel's. Copies of what is shifted
// from page to page take a sixth more CPU time (docs/performance.md).
inline constexpr uint32_t kLargePacketPages = 472;
inline constexpr size_t kLargeRamHeaderSize = ram_header_size(kLargePacketPages);
static_assert(kLargeRamHeaderSize == 4096);
// What the uncompressed packets of a stream have room for; both ends know it beforehand.
enum class PacketSize : uint8_t { kQemu, kLarge };
constexpr uint32_t packet_pages(PacketSize size) {
  return size == PacketSize::kLarge ? kLargePacketPages : kPacketPagesMax;
}
inline constexpr size_t kBlockNameSize = 256;
// Of a compressed payload: what QEMU's receivers have room for, without looking (2 * 512 KiB).
inline constexpr size_t kPayloadBytesMax = size_t{1} << 20;

// The first eight bytes of any packet: magic and version, or an error with `code`.
Result<void> check_opening(const uint8_t* at, ErrorCode code);

struct InitialPacket {
  std::array<uint8_t, 16> uuid{};
  uint8_t channel_id = 0;
};

// Parsing refuses with kHandshake: whoever sent it is not the peer that was expected.
void fill_initial_packet(std::span<uint8_t, kInitialPacketSize> out, const InitialPacket& packet);
Result<InitialPacket> parse_initial_packet(std::span<const uint8_t, kInitialPacketSize> bytes);

// What a RAM packet of ours says; offsets are bytes within the block.
struct RamPacket {
  uint32_t flags = 0;
  uint64_t packet_num = 0;
  std::string_view block;  // empty only when there are no pages
  std::span<const uint64_t> normal;
  std::span<const uint64_t> zero;
  uint32_t compressed_bytes = 0;  // the payload's, where flags name a method and pages are normal
};

// `out` is as long as a header of packets of this stream: kRamHeaderSize or kLargeRamHeaderSize.
void fill_ram_header(std::span<uint8_t> out, const RamPacket& packet);

// A received header. Offsets are decoded but not yet checked: that needs the block.
struct RamHeader {
  uint32_t flags = 0;
  uint32_t normal_pages = 0;
  uint32_t zero_pages = 0;
  uint32_t payload_bytes = 0;  // behind the header; 0 without normal pages
  uint64_t packet_num = 0;
  std::array<char, kBlockNameSize> block_bytes{};
  size_t block_size = 0;
  std::array<uint64_t, kLargePacketPages> offsets;  // normal first, then zero

  [[nodiscard]] std::string_view block() const { return {block_bytes.data(), block_size}; }
  [[nodiscard]] uint32_t pages() const { return normal_pages + zero_pages; }
};

// Checks everything that needs no block: magic, version, flags, counts, sizes. next_packet_size is
// believed only where there are pages with a payload (QEMU 7.2 leaves a stale one elsewhere).
// `compression_flag` is the agreed method's bit, which every packet with pages has; 0: none.
// `bytes`: as long as a header of packets of this stream, kRamHeaderSize or kLargeRamHeaderSize.
Result<void> parse_ram_header(std::span<const uint8_t> bytes, RamHeader& out,
                              uint32_t compression_flag = 0);
// Every offset aligned to a page and inside used_length bytes.
Result<void> check_offsets(const RamHeader& header, uint64_t used_length);

}  // namespace multifd
