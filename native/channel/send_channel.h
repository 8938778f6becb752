// The sending end of a multifd channel: a thread that connects, introduces itself, and sends
// extents, the state of devices and SYNC packets in the order they were submitted. TypeScript
// decides what and when; the thread does everything per page. Nothing here knows rounds, rates or
// the peer's dialect.
#pragma once

#include <atomic>
#include <memory>
#include <optional>

#include "channel/channel_thread.h"
#include "channel/command_queue.h"
#include "channel/counters.h"
#include "channel/device_state_sender.h"
#include "channel/endpoint.h"
#include "channel/engine_report.h"
#include "channel/extent_sender.h"
#include "channel/send_group.h"
#include "engine/engine.h"

namespace multifd {

struct SendChannelOptions {
  Endpoint endpoint;
  InitialPacket initial;  // uuid and channel id
  int connect_timeout_ms = 10'000;
  EngineKind engine = EngineKind::kSendmsg;  // io_uring falls back to it, and says so
  // Of sendmsg and io_uring. Has no effect with a tracker that wants_sent_copies().
  bool zero_copy = false;
  bool zero_copy_required = false;  // fail where the socket has none, instead of sending plain
  uint64_t high_water_bytes = 0;  // of unreleased bytes; unused without zero-copy
  uint64_t low_water_bytes = 0;
  uint64_t zero_copy_until_bytes = UINT64_MAX;  // see WaterMarks
  std::unique_ptr<PayloadEncoder> encoder = nullptr;  // null: uncompressed; else never zero-copy
  PacketSize packet_size = PacketSize::kQemu;  // with an encoder no other
  CounterCell* counters = nullptr;  // SendCounter::kCount cells that outlive the channel
};

class SendChannel final : public ChannelThread {
 public:
  static Result<std::unique_ptr<SendChannel>> start(SendChannelOptions options,
                                                    std::shared_ptr<SendGroup> group,
                                                    Wakeup& wakeup);
  ~SendChannel() override;

  // Any thread. True: the payload changed places with nothing. False: for an extent, more is queued
  // than credits allow, which is the caller's mistake; for a device's state, try again after a
  // kDeviceStateDone, which gives back the memory of the oldest one on the thread that reads it.
  bool submit(SendPayload& payload) { return commands_.submit(payload); }
  bool submit_extent(const Extent& extent) {
    SendPayload payload = extent;
    return submit(payload);
  }
  bool submit_sync() { return commands_.submit_sync(); }
  // After everything submitted: full flush, then an orderly end of the stream.
  bool submit_close() { return commands_.submit_close(); }
  // JavaScript thread.
  bool next_event(Event& out) override;
  void set_water_marks(uint64_t high_bytes, uint64_t low_bytes, uint64_t zero_copy_until_bytes);
  // SO_MAX_PACING_RATE, bytes per second; 0 lifts it. Smooths within an extent.
  void set_pacing_rate(uint64_t bytes_per_second);
  // tcpi_bytes_acked of the connection (tcp_info); 0 where there is none. It counts our SYN too.
  [[nodiscard]] uint64_t acked_bytes() const;
  // Valid after kReady; may gain steps down while the channel sends.
  [[nodiscard]] const EngineReport& engine_report() const { return engine_report_; }

 private:
  // While more than this is queued nobody has to be woken to keep the channel busy: all credits but
  // these are worked off per wake-up (src/schedule/channel-credits.ts), and two (32 MiB, about
  // 8 ms at the speed of loopback) last while a VMM holds the event loop.
  static constexpr uint32_t kQuietQueue = 2;

  SendChannel(SendChannelOptions options, std::shared_ptr<SendGroup> group, Wakeup& wakeup);
  void run() override;
  void transfer();
  void leak_memory();
  void interrupt() override;
  void release_resources() override;
  Result<void> open();
  Result<void> enable_zero_copy();
  std::unique_ptr<Engine> make_engine();
  void report_steps(const Engine& engine);
  Result<void> serve(Engine& engine);
  Result<EventKind> execute(const Command& command, ExtentSender& pages,
                            DeviceStateSender& devices);
  void announce(EventKind done, double wire_bytes);
  void publish(const Engine& engine);

  // Immutable after start.
  const SendChannelOptions options_;
  // Declared before what reads the memory: destroyed after it.
  const std::shared_ptr<SendGroup> group_;

  // Shared atomics.
  WaterMarks water_marks_;
  std::atomic<int> socket_{-1};  // fd_, once connected, for those who only look or shut down
  std::atomic<uint64_t> pacing_rate_{0};
  EngineReport engine_report_;
  CommandQueue commands_;

  // Channel thread from start to join.
  std::optional<GuestMemory::Lease> lease_;
  UniqueFd fd_;
  bool zero_copy_ = false;        // to be had on fd_
  uint32_t reported_steps_ = 0;   // of the engine's downgrades
  PageCounters page_counters_;    // as last published
  DeviceCounters device_counters_;
  CounterCells<SendCounter> counters_;
};

}  // namespace multifd
