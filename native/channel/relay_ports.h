// The outgoing side of a relay: one connected socket per multifd channel, each with its own lock,
// encoder and stream. Whoever has a packet takes a port that is free, or waits for one; a write
// blocks until the destination took it, which is all the back-pressure there is. Knows no guest
// memory and keeps no packet.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/syscalls.h"
#include "channel/counters.h"
#include "channel/endpoint.h"
#include "payload/payload.h"
#include "wire/packet.h"

namespace multifd {

inline constexpr std::array kRelayPortCounterNames = {"sentBytes", "packets", "syncs"};
enum class RelayPortCounter : size_t { kSentBytes, kPackets, kSyncs, kCount };
static_assert(kRelayPortCounterNames.size() == static_cast<size_t>(RelayPortCounter::kCount));

// A RAM block as the main channel lists it; a packet may name no other.
struct RelayBlock {
  std::string idstr;
  uint64_t used_length = 0;
};

struct RelayPortsOptions {
  Endpoint endpoint;
  std::array<uint8_t, 16> uuid{};
  int connect_timeout_ms = 10'000;
  CounterCell* counters = nullptr;  // RelayPortCounter::kCount cells per port
  const Syscalls* syscalls = &kKernelSyscalls;
};

class RelayPorts {
 public:
  // One port per encoder, 1 to kChannelsMax; null encoders send pages as they are.
  static Result<std::shared_ptr<RelayPorts>> create(
      RelayPortsOptions options, std::vector<std::unique_ptr<PayloadEncoder>> encoders);

  // Any thread that may block, once, before anything is sent: connects every port and sends its
  // initial packet at once, because a silent connection freezes a QEMU destination.
  Result<void> connect();
  // Instead of connect(): sockets that are connected and introduced already.
  void adopt(std::vector<UniqueFd> sockets);

  // JavaScript thread, before the first SYNC is released, which no page packet may precede.
  void set_blocks(std::vector<RelayBlock> blocks) { blocks_ = std::move(blocks); }
  // Relay threads, after the release of their first SYNC.
  [[nodiscard]] const std::vector<RelayBlock>& blocks() const { return blocks_; }

  // Relay threads: sends the packet over a port that is free, the `preferred`-th first. `pages` are
  // those of header.normal_pages; flags and packet_num of the header are not used.
  Result<void> send(const RamHeader& header, std::span<uint8_t> pages, size_t preferred);
  // Any thread that may block, while no relay thread sends: a SYNC packet on every port.
  Result<void> sync_out();
  // Relay threads that are sending, or waiting for a port: the destination is behind.
  [[nodiscard]] uint32_t writers() const { return writers_.load(std::memory_order_relaxed); }

  // Any thread: whoever sends, connects or waits gives up. Idempotent.
  void stop();
  [[nodiscard]] size_t size() const { return ports_.size(); }

 private:
  struct Port {
    std::mutex mutex;  // guards all but `fd`, whose number does not change once it is there
    UniqueFd fd;
    std::unique_ptr<PayloadEncoder> encoder;
    std::vector<uint8_t> encoded;  // encoder->bytes_max()
    std::array<uint8_t, kRamHeaderSize> header;
    uint64_t sent_bytes = 0;
    uint64_t packets = 0;
    uint64_t syncs = 0;
  };

  explicit RelayPorts(RelayPortsOptions options) : options_(std::move(options)) {}
  Result<void> keep(size_t index, UniqueFd fd);
  std::unique_lock<std::mutex> take_port(size_t preferred, size_t& index);
  Result<void> send_on(size_t index, const RamPacket& packet, std::span<const uint8_t> payload);
  Result<void> write_fully(int fd, std::span<const uint8_t> header,
                           std::span<const uint8_t> payload);
  void publish(size_t index);
  [[nodiscard]] Error stopped() const;

  // Immutable after create.
  const RelayPortsOptions options_;
  std::vector<std::unique_ptr<Port>> ports_;
  UniqueFd stop_fd_;  // eventfd, readable once stopped

  std::vector<RelayBlock> blocks_;  // immutable after set_blocks()
  std::mutex sockets_mutex_;        // fds that are being made, against stop()

  // Shared atomics.
  std::atomic<bool> stop_{false};
  std::atomic<uint32_t> writers_{0};
  std::atomic<uint64_t> next_packet_num_{0};  // one numbering for all ports, as QEMU 9.0 has it
};

}  // namespace multifd
