#include "wire/packet.h"

#include <algorithm>
#include <cstring>

#include "guest/page.h"
#include "wire/big_endian.h"

namespace multifd {
namespace {

// Offsets of MultiFDPacket_t's fields.
constexpr size_t kAtFlags = 8, kAtPagesAlloc = 12, kAtNormalPages = 16, kAtNextPacketSize = 20,
                 kAtPacketNum = 24, kAtZeroPages = 32, kAtBlock = 64, kAtOffsets = 320;
constexpr size_t kAtUuid = 8, kAtChannelId = 24;

// Of a packet with pages: its method, and how long what follows may be.
Result<void> check_payload(const RamHeader& header, uint32_t compression_flag) {
  if ((header.flags & kFlagCompressionMask) != compression_flag) {
    return Error::make(ErrorCode::kProtocol,
                       "got compression bits 0x%x, expected 0x%x: set the same "
                       "multifd-compression on both ends",
                       header.flags & kFlagCompressionMask, compression_flag);
  }
  if (header.normal_pages == 0) return {};
  if (compression_flag == 0) {
    const size_t uncompressed = header.normal_pages * kPageSize;
    if (header.payload_bytes == uncompressed) return {};
    return Error::make(ErrorCode::kProtocol,
                       "got next_packet_size %u, expected %zu for %u uncompressed pages",
                       header.payload_bytes, uncompressed, header.normal_pages);
  }
  if (header.payload_bytes == 0 || header.payload_bytes > kPayloadBytesMax) {
    return Error::make(ErrorCode::kProtocol,
                       "got next_packet_size %u, expected 1 to %zu for %u compressed pages",
                       header.payload_bytes, kPayloadBytesMax, header.normal_pages);
  }
  return {};
}

// How many pages a packet has room for whose header is that long.
uint32_t slots_in(std::span<const uint8_t> header) {
  return static_cast<uint32_t>((header.size() - kAtOffsets) / sizeof(uint64_t));
}

}  // namespace

Result<void> check_opening(const uint8_t* at, ErrorCode code) {
  if (const uint32_t magic = get32(at); magic != kMultifdMagic) {
    return Error::make(code,
                       "got magic 0x%08x, expected 0x%08x (a multifd packet): the peer is not a "
                       "multifd source, or the stream lost its place",
                       magic, kMultifdMagic);
  }
  if (const uint32_t version = get32(at + 4); version != kMultifdVersion) {
    return Error::make(code, "got multifd version %u, expected %u", version, kMultifdVersion);
  }
  return {};
}

void fill_initial_packet(std::span<uint8_t, kInitialPacketSize> out, const InitialPacket& packet) {
  std::ranges::fill(out, uint8_t{0});
  put32(out.data(), kMultifdMagic);
  put32(out.data() + 4, kMultifdVersion);
  std::ranges::copy(packet.uuid, out.data() + kAtUuid);
  out[kAtChannelId] = packet.channel_id;
}

Result<InitialPacket> parse_initial_packet(std::span<const uint8_t, kInitialPacketSize> bytes) {
  if (auto checked = check_opening(bytes.data(), ErrorCode::kHandshake); !checked) {
    return checked.error();
  }
  InitialPacket packet;
  std::copy_n(bytes.data() + kAtUuid, packet.uuid.size(), packet.uuid.begin());
  packet.channel_id = bytes[kAtChannelId];
  if (packet.channel_id >= kChannelsMax) {
    return Error::make(ErrorCode::kHandshake,
                       "got an initial packet of channel %u, expected 0 to %u",
                       unsigned{packet.channel_id}, kChannelsMax - 1);
  }
  return packet;
}

void fill_ram_header(std::span<uint8_t> out, const RamPacket& packet) {
  // The whole header is written, so that nothing of an earlier packet leaks out (QEMU 9.2 on).
  std::ranges::fill(out, uint8_t{0});
  uint8_t* const at = out.data();
  put32(at, kMultifdMagic);
  put32(at + 4, kMultifdVersion);
  put32(at + kAtFlags, packet.flags);
  put64(at + kAtPacketNum, packet.packet_num);
  if (packet.normal.empty() && packet.zero.empty()) return;
  put32(at + kAtPagesAlloc, slots_in(out));
  put32(at + kAtNormalPages, static_cast<uint32_t>(packet.normal.size()));
  const bool compressed = (packet.flags & kFlagCompressionMask) != 0;
  put32(at + kAtNextPacketSize,
        compressed ? packet.compressed_bytes
                   : static_cast<uint32_t>(packet.normal.size() * kPageSize));
  put32(at + kAtZeroPages, static_cast<uint32_t>(packet.zero.size()));
  std::memcpy(at + kAtBlock, packet.block.data(), packet.block.size());
  uint8_t* offset_at = at + kAtOffsets;
  for (const auto list : {packet.normal, packet.zero}) {
    for (const uint64_t offset : list) {
      put64(offset_at, offset);
      offset_at += sizeof offset;
    }
  }
}

Result<void> parse_ram_header(std::span<const uint8_t> bytes, RamHeader& out,
                              uint32_t compression_flag) {
  const uint8_t* const at = bytes.data();
  if (auto checked = check_opening(at, ErrorCode::kProtocol); !checked) return checked;
  out.flags = get32(at + kAtFlags);
  out.packet_num = get64(at + kAtPacketNum);
  if (out.flags & ~(kFlagSync | compression_flag)) {
    return Error::make(ErrorCode::kUnsupported,
                       "got packet flags 0x%x, expected none but 0x%x: set the same "
                       "multifd-compression on both ends, and switch device state over multifd "
                       "off at the source",
                       out.flags, kFlagSync | compression_flag);
  }
  const uint32_t pages_alloc = get32(at + kAtPagesAlloc);
  out.normal_pages = get32(at + kAtNormalPages);
  out.zero_pages = get32(at + kAtZeroPages);
  if (pages_alloc > slots_in(bytes)) {
    return Error::make(ErrorCode::kProtocol, "got pages_alloc %u, expected at most %u",
                       pages_alloc, slots_in(bytes));
  }
  if (out.normal_pages > pages_alloc || out.zero_pages > pages_alloc - out.normal_pages) {
    return Error::make(ErrorCode::kProtocol,
                       "got %u normal and %u zero pages, expected at most %u together",
                       out.normal_pages, out.zero_pages, pages_alloc);
  }
  out.payload_bytes = out.normal_pages > 0 ? get32(at + kAtNextPacketSize) : 0;
  if (out.pages() == 0) return {};
  if (auto checked = check_payload(out, compression_flag); !checked) return checked;
  std::memcpy(out.block_bytes.data(), at + kAtBlock, kBlockNameSize);
  out.block_size = strnlen(out.block_bytes.data(), kBlockNameSize - 1);
  if (out.block_size == 0) {
    return Error::make(ErrorCode::kProtocol,
                       "got %u pages of a RAM block without a name, expected 1 to %zu bytes",
                       out.pages(), kBlockNameSize - 1);
  }
  for (uint32_t i = 0; i < out.pages(); ++i) out.offsets[i] = get64(at + kAtOffsets + 8 * i);
  return {};
}

Result<void> check_offsets(const RamHeader& header, uint64_t used_length) {
  for (uint32_t i = 0; i < header.pages(); ++i) {
    const uint64_t offset = header.offsets[i];
    // used_length is a multiple of the page size and not zero (GuestMemory::create).
    if (offset % kPageSize == 0 && offset <= used_length - kPageSize) continue;
    return Error::make(ErrorCode::kProtocol,
                       "got page offset 0x%llx in RAM block \"%.64s\", expected a multiple of %zu "
                       "below its length 0x%llx",
                       static_cast<unsigned long long>(offset), header.block_bytes.data(),
                       kPageSize, static_cast<unsigned long long>(used_length));
  }
  return {};
}

}  // namespace multifd
