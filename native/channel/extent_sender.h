// Turns one extent into packets: late collect, scan of the round bitmap, zero test, headers, one
// submission per record. Works per page, and therefore in a channel thread only; knows the engine
// as a contract and nothing of threads, events or JavaScript.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "engine/engine.h"
#include "guest/ram_state.h"
#include "payload/payload.h"
#include "wire/packet.h"

namespace multifd {

// Packets of QEMU's size that travel in one submission; of large ones it is one.
inline constexpr uint32_t kPacketsPerRecord = 2;
static_assert(kPacketsPerRecord * kRamHeaderSize <= kRecordHeadersSize);
static_assert(kPacketsPerRecord * (1 + kPacketPagesMax) <= kRecordIovMax);
static_assert(kLargeRamHeaderSize <= kRecordHeadersSize);
static_assert(1 + kLargePacketPages <= kRecordIovMax);

struct PageCounters {
  uint64_t packets = 0;
  uint64_t normal_pages = 0;
  uint64_t zero_pages = 0;
};

class ExtentSender {
 public:
  // Called after each submission, once per MiB or two: counters must move while a slow peer takes
  // its time over an extent.
  using Progress = std::function<void(const PageCounters&)>;
  // packet_num is shared by all channels of a migration (QEMU: one global counter). Without an
  // encoder pages travel as they are; with one, or with a tracker that wants_sent_copies(), the
  // engine has to send plain: a record's own bodies are written anew when it is used again. Large
  // packets are not compressed.
  ExtentSender(RamState& ram, Engine& engine, std::atomic<uint64_t>& packet_num, Progress progress,
               PacketSize size, PayloadEncoder* encoder = nullptr);

  // Sends every page of the extent that is in the round.
  Result<void> send(const Extent& extent);
  // Full flush, then a SYNC packet: nothing of ours is unreleased when it leaves.
  Result<void> send_sync();
  [[nodiscard]] const PageCounters& counters() const { return counters_; }

 private:
  Result<void> add_page(const RamBlock& block, uint64_t page);
  Result<void> open_packet();
  Result<void> close_packet(const RamBlock& block);
  Result<uint32_t> encode_body();
  Result<void> submit_record();
  [[nodiscard]] std::span<uint8_t> open_header();
  void add_payload(uint32_t block, uint64_t page, uint8_t* host);
  bool is_absent(uint64_t page);

  RamState& ram_;
  Engine& engine_;
  std::atomic<uint64_t>& packet_num_;
  const Progress progress_;
  PayloadEncoder* const encoder_;
  const uint32_t packet_pages_;
  const size_t header_size_;
  const uint32_t packets_per_record_;
  // Private copies of a record's pages, for a tracker that hashes what was sent; 0 for others.
  const size_t copies_bytes_;
  const size_t body_bytes_max_;  // of a compressed packet
  PageCounters counters_;

  uint32_t block_index_ = 0;
  SendRecord* record_ = nullptr;  // being filled, ours until submitted
  uint32_t packets_in_record_ = 0;
  uint32_t body_iov_ = 0;  // the first iovec behind the open packet's header
  uint32_t normal_count_ = 0;
  uint32_t zero_count_ = 0;
  bool packet_open_ = false;
  std::array<uint64_t, kLargePacketPages> normal_;
  std::array<uint64_t, kLargePacketPages> zero_;

  // What was populated when the extent began: reading a page that is not (it was discarded) would
  // allocate it in a file, and look like a write in anonymous memory. A page that is populated
  // later is dirty again, and travels with its content in the next round.
  std::vector<PageRange> populated_;
  size_t populated_at_ = 0;
  size_t copied_pages_ = 0;  // in the record
};

}  // namespace multifd
