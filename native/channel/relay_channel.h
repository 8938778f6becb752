// The incoming side of a relay: a thread per multifd channel of the source that reads a packet,
// checks it as a destination would, and hands it to a port. It holds one packet, and parks at each
// SYNC until the main channel collected it, so that no page passes a sync point. Knows no guest
// memory: pages pass through.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <span>

#include "base/syscalls.h"
#include "channel/channel_thread.h"
#include "channel/counters.h"
#include "channel/packet_reader.h"
#include "channel/relay_ports.h"
#include "channel/sync_park.h"
#include "payload/payload.h"
#include "wire/packet.h"

namespace multifd {

struct RelayChannelOptions {
  uint8_t channel_id = 0;
  std::unique_ptr<PayloadDecoder> decoder;  // null: the source does not compress
  CounterCell* counters = nullptr;          // ReceiveCounter::kCount cells that outlive the channel
  const Syscalls* syscalls = &kKernelSyscalls;
};

class RelayChannel final : public ChannelThread {
 public:
  // `fd` is a blocking stream socket whose initial packet was read already.
  static Result<std::unique_ptr<RelayChannel>> start(UniqueFd fd, RelayChannelOptions options,
                                                     std::shared_ptr<RelayPorts> ports,
                                                     Wakeup& wakeup);
  ~RelayChannel() override;

  // JavaScript thread: the SYNC went out on every port; read on. Each call releases one SYNC,
  // arrived or still to come.
  void release_sync() { park_.release(); }

 private:
  RelayChannel(UniqueFd fd, RelayChannelOptions options, std::shared_ptr<RelayPorts> ports,
               Wakeup& wakeup);
  void run() override;
  void interrupt() override;
  void release_resources() override;
  Result<void> relay();
  // Reads and passes on the pages that follow the header.
  Result<void> pass_on();
  [[nodiscard]] Result<void> check_block() const;
  [[nodiscard]] Error refuse_device_state() const;
  void publish();

  // Immutable after start.
  const RelayChannelOptions options_;
  const std::shared_ptr<RelayPorts> ports_;
  const int socket_;  // fd_'s number, for interrupt()

  // Shared atomics.
  SyncPark park_;

  // Channel thread from start to join.
  UniqueFd fd_;
  PacketReader reader_;
  CounterCells<ReceiveCounter> counters_;
  uint64_t packets_ = 0;
  uint64_t normal_pages_ = 0;
  uint64_t zero_pages_ = 0;
  uint32_t syncs_ = 0;
  RamHeader header_;
  std::unique_ptr<uint8_t[]> pages_;       // kPacketBytesMax
  std::unique_ptr<uint8_t[]> compressed_;  // kPayloadBytesMax, with a decoder
};

}  // namespace multifd
