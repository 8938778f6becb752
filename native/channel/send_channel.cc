#include "channel/send_channel.h"

#include <linux/tcp.h>
#include <netinet/in.h>

#include <cassert>

#include "base/kernel_compat.h"
#include "base/locked_memory.h"
#include "engine/sendmsg_engine.h"
#include "engine/splice_engine.h"
#include "engine/uring_engine.h"

namespace multifd {

Result<std::unique_ptr<SendChannel>> SendChannel::start(SendChannelOptions options,
                                                        std::shared_ptr<SendGroup> group,
                                                        Wakeup& wakeup) {
  const unsigned id = options.initial.channel_id;
  // What a hash tracker sends are its own copies, in a buffer that the next record uses again: the
  // kernel must have copied them by then, and pinning a private copy would save nothing.
  // The same is true of compressed bodies.
  if (group->ram->tracker().wants_sent_copies() || options.encoder) {
    options.zero_copy = false;
    if (options.engine == EngineKind::kSplice) options.engine = EngineKind::kSendmsg;
  }
  assert(!(options.packet_size == PacketSize::kLarge && options.encoder));
  std::unique_ptr<SendChannel> channel(
      new SendChannel(std::move(options), std::move(group), wakeup));
  if (auto prepared = channel->prepare(); !prepared) return prepared.error();
  auto lease = channel->group_->ram->memory().lease([raw = channel.get()] { raw->destroy(); });
  if (!lease) return lease.error();
  channel->lease_.emplace(std::move(*lease));
  if (auto started = channel->ChannelThread::start("multifd-send-" + std::to_string(id));
      !started) {
    return started.error();
  }
  return channel;
}

SendChannel::SendChannel(SendChannelOptions options, std::shared_ptr<SendGroup> group,
                         Wakeup& wakeup)
    : ChannelThread(wakeup),
      options_(std::move(options)),
      group_(std::move(group)),
      water_marks_{options_.high_water_bytes, options_.low_water_bytes,
                   options_.zero_copy_until_bytes},
      counters_(options_.counters) {}

SendChannel::~SendChannel() {
  destroy();
  join();
}

bool SendChannel::next_event(Event& out) {
  if (!ChannelThread::next_event(out)) return false;
  if (out.kind == EventKind::kDeviceStateDone) static_cast<void>(commands_.take_back());
  return true;
}

void SendChannel::interrupt() {
  // A blocked sendmsg returns EPIPE. The fd is closed only after join(), so the number is ours.
  if (const int fd = socket_.load(std::memory_order_acquire); fd >= 0) ::shutdown(fd, SHUT_RDWR);
  commands_.wake();
}

void SendChannel::run() {
  transfer();
  lease_.reset();  // nothing here touches guest memory any more
}

void SendChannel::transfer() {
  if (auto opened = open(); !opened) {
    fail(opened.error());
    return;
  }
  const std::unique_ptr<Engine> engine = make_engine();
  emit(EventKind::kReady);
  const auto served = serve(*engine);
  if (!served) fail(served.error());
  if ((!served || stopping()) && !engine->reset()) leak_memory();
}

// On this thread: a ring belongs to the thread that makes it.
std::unique_ptr<Engine> SendChannel::make_engine() {
  if (options_.engine == EngineKind::kIoUring) {
    const SendMode wanted = !zero_copy_                 ? SendMode::kPlain
                            : group_->registered ? SendMode::kZeroCopyFixed
                                                 : SendMode::kZeroCopy;
    auto engine = UringEngine::create({.fd = fd_.get(),
                                       .mode = wanted,
                                       .memory = group_->registered,
                                       .water_marks = &water_marks_,
                                       .stop = &stop_flag()},
                                      group_->io_uring ? *group_->io_uring : probe_io_uring());
    if (engine) {
      engine_report_.set(EngineKind::kIoUring, (*engine)->mode());
      report_steps(**engine);
      return std::move(*engine);
    }
    char sentence[sizeof(Error::detail) + 32];
    std::snprintf(sentence, sizeof sentence, "sendmsg instead of io-uring: %s",
                  engine.error().detail);
    engine_report_.add_step(sentence);
  }
  if (options_.engine == EngineKind::kSplice) {
    auto engine =
        std::make_unique<SpliceEngine>(SpliceEngineOptions{.fd = fd_.get(), .stop = &stop_flag()});
    engine_report_.set(EngineKind::kSplice, engine->mode());
    return engine;
  }
  auto engine = std::make_unique<SendmsgEngine>(
      SendmsgEngineOptions{.fd = fd_.get(),
                           .zero_copy = zero_copy_,
                           .water_marks = &water_marks_,
                           .stop = &stop_flag(),
                           .locked_memory_limited = is_locked_memory_limited()});
  engine_report_.set(EngineKind::kSendmsg, engine->mode());
  return engine;
}

void SendChannel::report_steps(const Engine& engine) {
  const Downgrades& steps = engine.downgrades();
  if (reported_steps_ == steps.count()) return;
  while (reported_steps_ < steps.count()) {
    engine_report_.add_step(steps[reported_steps_++].sentence);
  }
  engine_report_.set(engine_report_.kind(), engine.mode());
}

// The kernel still reads guest memory and will not say when it stops: the mappings must never go
// away. The engine counts its leaked records.
void SendChannel::leak_memory() {
  static_cast<void>(new std::shared_ptr<SendGroup>(group_));
  commands_.leak_payload();
}

Result<void> SendChannel::open() {
  auto connected = connect_to(options_.endpoint, options_.connect_timeout_ms, stop_fd());
  if (!connected) return connected.error();
  fd_ = std::move(*connected);
  if (auto enabled = enable_zero_copy(); !enabled) return enabled;
  std::array<uint8_t, kInitialPacketSize> initial;
  fill_initial_packet(initial, options_.initial);
  if (::send(fd_.get(), initial.data(), initial.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(initial.size())) {
    return Error::from_errno("send", "sending the initial packet to %s failed",
                             options_.endpoint.text.c_str());
  }
  counters_.set(SendCounter::kSentBytes, uint64_t{kInitialPacketSize});
  socket_.store(fd_.get(), std::memory_order_release);
  if (const uint64_t rate = pacing_rate_.load(); rate != 0) set_pacing_rate(rate);
  // destroy() may have looked for the socket just before it was there.
  if (stopping()) return Error::make(ErrorCode::kClosed, "the channel was told to stop");
  return {};
}

Result<void> SendChannel::enable_zero_copy() {
  if (!options_.zero_copy || options_.engine == EngineKind::kSplice) return {};
  const int on = 1;
  if (::setsockopt(fd_.get(), SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on) == 0) {
    zero_copy_ = true;
    return {};
  }
  Error error = Error::from_errno("setsockopt", "zero-copy is not to be had on %s: use "
                                  "zeroCopy 'off'", options_.endpoint.text.c_str());
  error.code = ErrorCode::kUnsupported;
  if (options_.zero_copy_required) return error;
  engine_report_.add_step("plain instead of zero-copy: the kernel refuses SO_ZEROCOPY on this kind "
                          "of connection");
  return {};
}

Result<void> SendChannel::serve(Engine& engine) {
  ExtentSender pages(
      *group_->ram, engine, group_->packet_num,
      [this, &engine](const PageCounters& counters) {
        page_counters_ = counters;
        publish(engine);
      },
      options_.packet_size, options_.encoder.get());
  DeviceStateSender devices(engine, [this, &engine](const DeviceCounters& counters) {
    device_counters_ = counters;
    publish(engine);
  });
  while (Command* const command = commands_.next(stop_flag())) {
    if (command->kind == CommandKind::kClose) return engine.flush(0);
    const uint64_t sent_before = engine.counters().sent_bytes;
    const auto done = execute(*command, pages, devices);
    if (!done) return done.error();
    page_counters_ = pages.counters();
    counters_.set(SendCounter::kCpuNanoseconds, thread_cpu_nanoseconds());
    publish(engine);
    commands_.done();
    announce(*done, static_cast<double>(engine.counters().sent_bytes - sent_before));
  }
  return {};
}

// Returns what to announce.
Result<EventKind> SendChannel::execute(const Command& command, ExtentSender& pages,
                                       DeviceStateSender& devices) {
  Result<void> sent;
  EventKind done = EventKind::kSyncDone;
  if (const auto* const extent = std::get_if<Extent>(&command.payload)) {
    sent = pages.send(*extent);
    done = EventKind::kExtentDone;
  } else if (is_device_state(command.payload)) {
    sent = devices.send(*std::get<std::unique_ptr<DevicePacket>>(command.payload));
    done = EventKind::kDeviceStateDone;
  } else {
    sent = pages.send_sync();
  }
  if (!sent) return sent.error();
  return done;
}

void SendChannel::announce(EventKind done, double wire_bytes) {
  if (done == EventKind::kExtentDone && commands_.lasts(kQuietQueue)) {
    emit_quietly(done, wire_bytes);
  } else {
    emit(done, wire_bytes);
  }
}

void SendChannel::publish(const Engine& engine) {
  report_steps(engine);
  const EngineCounters& now = engine.counters();
  counters_.set(SendCounter::kSentBytes, now.sent_bytes + kInitialPacketSize);
  counters_.set(SendCounter::kPackets, page_counters_.packets + device_counters_.packets);
  counters_.set(SendCounter::kNormalPages, page_counters_.normal_pages);
  counters_.set(SendCounter::kZeroPages, page_counters_.zero_pages);
  counters_.set(SendCounter::kDeviceStateBytes, device_counters_.bytes);
  counters_.set(SendCounter::kSendCalls, now.send_calls);
  counters_.set(SendCounter::kUnreleasedBytes, uint64_t{engine.unreleased_bytes()});
  counters_.set(SendCounter::kUnreleasedHighBytes, now.unreleased_high_bytes);
  counters_.set(SendCounter::kUnreleasedRecentHighBytes, now.unreleased_recent_high_bytes);
  counters_.set(SendCounter::kZeroCopyTriedBytes, now.zero_copy_tried_bytes);
  counters_.set(SendCounter::kZeroCopyBytes, now.zero_copy_bytes);
  counters_.set(SendCounter::kCopiedBytes, now.copied_bytes);
  counters_.set(SendCounter::kNotifications, now.notifications);
  counters_.set(SendCounter::kStrayNotifications, now.stray_notifications);
  counters_.set(SendCounter::kWaitsAtHighWater, now.waits_at_high_water);
  counters_.set(SendCounter::kDryWaits, now.dry_waits);
  counters_.set(SendCounter::kQueuedWaits, now.queued_waits);
  counters_.set(SendCounter::kRefusedByMemlock, now.refused_by_memlock);
  counters_.set(SendCounter::kRefusedByOptmem, now.refused_by_optmem);
}

void SendChannel::set_water_marks(uint64_t high_bytes, uint64_t low_bytes,
                                  uint64_t zero_copy_until_bytes) {
  water_marks_.high_bytes.store(high_bytes, std::memory_order_relaxed);
  water_marks_.low_bytes.store(low_bytes, std::memory_order_relaxed);
  water_marks_.zero_copy_until_bytes.store(zero_copy_until_bytes, std::memory_order_relaxed);
}

void SendChannel::set_pacing_rate(uint64_t bytes_per_second) {
  pacing_rate_.store(bytes_per_second);
  const int fd = socket_.load(std::memory_order_acquire);
  if (fd < 0) return;  // open() applies it
  const uint64_t rate = bytes_per_second == 0 ? ~uint64_t{0} : bytes_per_second;
  ::setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof rate);
}

uint64_t SendChannel::acked_bytes() const {
  const int fd = socket_.load(std::memory_order_acquire);
  if (fd < 0) return 0;
  tcp_info report{};
  if (kKernelSyscalls.tcp_state(fd, &report) < 0) return 0;
  return report.tcpi_bytes_acked;
}

void SendChannel::release_resources() {
  socket_.store(-1, std::memory_order_release);
  fd_.reset();
}

}  // namespace multifd
