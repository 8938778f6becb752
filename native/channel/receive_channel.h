// The receiving end of a multifd channel: a thread that reads packets straight into guest memory
// and parks at each SYNC until the main channel collects it, and with each device's state until
// somebody takes it. It trusts nothing in a packet: every
// field is checked before a byte of payload is read.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "base/syscalls.h"
#include "channel/channel_thread.h"
#include "channel/counters.h"
#include "channel/device_state_slot.h"
#include "channel/packet_reader.h"
#include "channel/sync_park.h"
#include "guest/dirty_bitmap.h"
#include "guest/guest_memory.h"
#include "payload/payload.h"
#include "wire/packet.h"

namespace multifd {

// What the channels of one incoming migration share: the memory, emptied, and which pages came.
// Outlives its channels: when a connection broke, those of the next one join the same group. Costs
// two bits per page of the guest, in memory that stays unpopulated where no bit was ever set.
struct ReceiveGroup {
  static Result<std::shared_ptr<ReceiveGroup>> create(std::shared_ptr<GuestMemory> memory);
  // JavaScript thread, while all channels are parked at a SYNC or have ended.
  void clear_received_since_sync();

  std::shared_ptr<GuestMemory> memory;
  // By block; atomic words. Set before the first byte of a page is written: what is not set is
  // still absent, so a zero page needs no write there.
  std::vector<DirtyBitmap> received;
  // By block; atomic words. Pages of packets, zero pages too, that arrived as a whole and are in
  // memory: not those that a connection tore in two, or in a packet with one that was.
  std::vector<DirtyBitmap> received_since_sync;
};

struct ReceiveChannelOptions {
  uint8_t channel_id = 0;
  std::unique_ptr<PayloadDecoder> decoder = nullptr;  // null: uncompressed
  PacketSize packet_size = PacketSize::kQemu;  // with a decoder no other
  CounterCell* counters = nullptr;  // ReceiveCounter::kCount cells that outlive the channel
  const Syscalls* syscalls = &kKernelSyscalls;
};

class ReceiveChannel final : public ChannelThread {
 public:
  // `fd` is a blocking stream socket whose initial packet was read already.
  static Result<std::unique_ptr<ReceiveChannel>> start(UniqueFd fd, ReceiveChannelOptions options,
                                                       std::shared_ptr<ReceiveGroup> group,
                                                       Wakeup& wakeup);
  ~ReceiveChannel() override;

  // JavaScript thread: the main channel collected this channel's SYNC; read on. Each call releases
  // one SYNC, arrived or still to come; two are never merged.
  void release_sync() { park_.release(); }
  // JavaScript thread, after kDeviceState: changes `out` for what arrived, and the channel reads
  // on. False: nothing has.
  bool take_device_state(ReceivedDeviceState& out) { return device_states_.take(out); }

 private:
  ReceiveChannel(UniqueFd fd, ReceiveChannelOptions options, std::shared_ptr<ReceiveGroup> group,
                 Wakeup& wakeup);
  void run() override;
  void interrupt() override;
  void release_resources() override;
  Result<void> receive();
  // Each reads the packet whose front has come, and the next front. False as PacketReader's.
  Result<bool> receive_pages();
  Result<bool> receive_device_state();
  // Reads the payload of the packet to where it belongs, and the next front behind it if asked to.
  Result<bool> read_payload(bool with_front);
  [[nodiscard]] bool into_file() const;
  Result<bool> read_aside(bool with_front);
  Result<void> decode(std::span<const iovec> runs);
  Result<void> write_runs(std::span<const iovec> runs);
  Result<void> place(const RamHeader& header);
  void count_in(const RamHeader& header);
  [[nodiscard]] size_t last_block_index() const;
  static Result<void> zero_page(const RamBlock& block, uint64_t page);
  void publish();

  // Immutable after start.
  const ReceiveChannelOptions options_;
  const std::shared_ptr<ReceiveGroup> group_;
  const int socket_;  // fd_'s number, for interrupt()

  // Shared atomics.
  SyncPark park_;
  DeviceStateSlot device_states_;

  // Channel thread from start to join.
  std::optional<GuestMemory::Lease> lease_;
  UniqueFd fd_;
  PacketReader reader_;
  CounterCells<ReceiveCounter> counters_;
  uint64_t packets_ = 0;
  uint64_t normal_pages_ = 0;
  uint64_t zero_pages_ = 0;
  uint64_t device_state_bytes_ = 0;
  uint32_t syncs_ = 0;
  const RamBlock* last_block_ = nullptr;  // most packets name the block of the one before
  RamHeader header_;
  std::array<iovec, kLargePacketPages + 1> iov_;
  size_t iov_count_ = 0;
  size_t payload_bytes_ = 0;
  std::unique_ptr<uint8_t[]> compressed_;  // kPayloadBytesMax, with a decoder
  std::unique_ptr<uint8_t[]> pages_;       // of one packet, on their way into a file
};

}  // namespace multifd
