// The engine over sendmsg(2): plain, or with MSG_ZEROCOPY and the socket's error queue. The socket
// is blocking; whoever wants the thread back sets the stop flag and shuts the socket down.
#pragma once

#include "base/syscalls.h"
#include "engine/engine.h"
#include "engine/flush_gate.h"
#include "engine/record_pool.h"
#include "engine/release_ledger.h"

namespace multifd {

struct SendmsgEngineOptions {
  int fd = -1;             // blocking stream socket; the caller owns it and outlives the engine
  bool zero_copy = false;  // SO_ZEROCOPY is set on fd
  const WaterMarks* water_marks = nullptr;
  const std::atomic<bool>* stop = nullptr;  // true: give up waiting
  const Syscalls* syscalls = &kKernelSyscalls;
  bool locked_memory_limited = true;  // RLIMIT_MEMLOCK may be why a send is refused
  uint32_t first_id = 0;  // of the socket's zero-copy counter; tests begin near the wrap
};

class SendmsgEngine final : public Engine {
 public:
  explicit SendmsgEngine(const SendmsgEngineOptions& options);
  SendmsgEngine(const SendmsgEngine&) = delete;
  SendmsgEngine& operator=(const SendmsgEngine&) = delete;

  Result<SendRecord*> acquire() override;
  Result<void> submit(SendRecord& record) override;
  void begin_extent() override {
    counters_.unreleased_recent_high_bytes = ledger_.unreleased_bytes();
  }
  Result<void> flush(size_t target_bytes) override;
  [[nodiscard]] size_t unreleased_bytes() const override { return ledger_.unreleased_bytes(); }
  [[nodiscard]] const EngineCounters& counters() const override { return counters_; }
  [[nodiscard]] SendMode mode() const override {
    return options_.zero_copy ? SendMode::kZeroCopy : SendMode::kPlain;
  }
  [[nodiscard]] const Downgrades& downgrades() const override { return downgrades_; }
  bool reset() override;

 private:
  // What is left of a record, and how.
  struct Rest {
    msghdr message{};
    size_t bytes = 0;
    bool zero_copy = false;
    bool more = false;  // see SendRecord
    size_t limit = SIZE_MAX;  // of one zero-copy call, after the kernel refused a larger one
  };
  Result<void> send_all(SendRecord& record, Rest& rest);
  Result<void> make_room(size_t call_bytes);
  Result<size_t> send_some(Rest& rest, size_t bytes);
  Result<void> on_enobufs(Rest& rest, size_t call_bytes);
  Result<void> wait_for_notification(int timeout_ms);
  bool reap();
  void apply(const Notification& notification);

  const SendmsgEngineOptions options_;
  RecordPool pool_;
  ReleaseLedger ledger_;
  EngineCounters counters_;
  FlushGate gate_;
  const Downgrades downgrades_;  // none: what a socket refuses is known before the engine is made
};

}  // namespace multifd
