#include "channel/send_channel.h"

#include <linux/tcp.h>
#include <netinet/in.h>

#include "base/kernel_compat.h"
#include "base/locked_memory.h"
#include "engine/sendmsg_engine.h"
#include "engine/uring_engine.h"

namespace multifd {

Result<std::unique_ptr<SendChannel>> SendChannel::start(SendChannelOptions options,
                                                        std::shared_ptr<SendGroup> group,
                                                        Wakeup& wakeup) {
  const unsigned id = options.initial.channel_id;
  // What a hash tracker sends are its own copies, in a buffer that the next record uses again: the
  // kernel must have copied them by then, and pinning a private copy would save nothing.
  // The same is true of compressed bodies.
  if (group->ram->tracker().wants_sent_copies() || options.encoder) options.zero_copy = false;
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

bool SendChannel::enqueue(const Command& command) {
  const uint32_t tail = submitted_.load(std::memory_order_relaxed);
  if (tail - taken_.load(std::memory_order_acquire) == kCommandCapacity) return false;
  commands_[tail % kCommandCapacity] = command;
  submitted_.store(tail + 1, std::memory_order_release);  // pairs with next_command()
  submitted_.notify_one();
  return true;
}

// Waits for a command; false when the channel was told to stop.
bool SendChannel::next_command(Command& out) {
  const uint32_t head = taken_.load(std::memory_order_relaxed);
  uint32_t tail = submitted_.load(std::memory_order_acquire);
  while (tail == head && !stopping()) {
    submitted_.wait(tail, std::memory_order_acquire);
    tail = submitted_.load(std::memory_order_acquire);
  }
  if (stopping()) return false;
  out = commands_[head % kCommandCapacity];
  taken_.store(head + 1, std::memory_order_release);  // pairs with enqueue()
  return true;
}

void SendChannel::interrupt() {
  // A blocked sendmsg returns EPIPE. The fd is closed only after join(), so the number is ours.
  if (const int fd = socket_.load(std::memory_order_acquire); fd >= 0) ::shutdown(fd, SHUT_RDWR);
  // A change of value is what ends a futex wait. The thread looks at the stop flag before it looks
  // at the queue, so the count no longer matters.
  submitted_.fetch_add(1, std::memory_order_release);
  submitted_.notify_one();
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
void SendChannel::leak_memory() { static_cast<void>(new std::shared_ptr<SendGroup>(group_)); }

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
  if (!options_.zero_copy) return {};
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
  ExtentSender sender(*group_->ram, engine, group_->packet_num,
                      [this, &engine](const PageCounters& pages) { publish(engine, pages); },
                      options_.encoder.get());
  Command command;
  while (next_command(command)) {
    if (command.kind == CommandKind::kClose) return engine.flush(0);
    if (auto executed = execute(command, sender, engine); !executed) return executed;
  }
  return {};
}

Result<void> SendChannel::execute(const Command& command, ExtentSender& sender, Engine& engine) {
  const uint64_t sent_before = engine.counters().sent_bytes;
  const bool sync = command.kind == CommandKind::kSync;
  if (auto sent = sync ? sender.send_sync() : sender.send(command.extent); !sent) return sent;
  counters_.set(SendCounter::kCpuNanoseconds, thread_cpu_nanoseconds());
  publish(engine, sender.counters());
  const auto wire_bytes = static_cast<double>(engine.counters().sent_bytes - sent_before);
  if (sync) {
    emit(EventKind::kSyncDone, wire_bytes);
  } else if (queued() > kQuietQueue) {
    emit_quietly(EventKind::kExtentDone, wire_bytes);
  } else {
    emit(EventKind::kExtentDone, wire_bytes);
  }
  return {};
}

void SendChannel::publish(const Engine& engine, const PageCounters& pages) {
  report_steps(engine);
  const EngineCounters& now = engine.counters();
  counters_.set(SendCounter::kSentBytes, now.sent_bytes + kInitialPacketSize);
  counters_.set(SendCounter::kPackets, pages.packets);
  counters_.set(SendCounter::kNormalPages, pages.normal_pages);
  counters_.set(SendCounter::kZeroPages, pages.zero_pages);
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
