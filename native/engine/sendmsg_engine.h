// The engine over sendmsg(2): plain, or with MSG_ZEROCOPY and the socket's error queue. The socket
// is blocking; whoever wants the thread back sets the stop flag and shuts the socket down.
#pragma once

#include "base/syscalls.h"
#include "engine/engine.h"
#include "engine/release_ledger.h"

namespace multifd {

struct SendmsgEngineOptions {
  int fd = -1;             // blocking stream socket; the caller owns it and outlives the engine
  bool zero_copy = false;  // SO_ZEROCOPY is set on fd
  const WaterMarks* water_marks = nullptr;
  const std::atomic<bool>* stop = nullptr;  // true: give up waiting
  const Syscalls* syscalls = &kKernelSyscalls;
  uint32_t first_id = 0;  // of the socket's zero-copy counter; tests begin near the wrap
};

class SendmsgEngine final : public Engine {
 public:
  explicit SendmsgEngine(const SendmsgEngineOptions& options);
  ~SendmsgEngine() override;
  SendmsgEngine(const SendmsgEngine&) = delete;
  SendmsgEngine& operator=(const SendmsgEngine&) = delete;

  Result<SendRecord*> acquire() override;
  Result<void> submit(SendRecord& record) override;
  Result<void> flush(size_t target_bytes) override;
  [[nodiscard]] size_t unreleased_bytes() const override { return ledger_.unreleased_bytes(); }
  [[nodiscard]] const EngineCounters& counters() const override { return counters_; }
  bool reset() override;

 private:
  struct SendStep {
    size_t bytes;  // accepted by the kernel, 0: retry
    bool zero_copy;
  };
  Result<SendStep> send_some(msghdr& message, bool zero_copy, size_t& call_limit);
  Result<void> on_enobufs(bool& zero_copy, size_t& call_limit, size_t call_bytes);
  Result<void> wait_for_notification(int timeout_ms);
  bool reap();
  void apply(const Notification& notification);
  void release_if_done(SendRecord& record);

  const SendmsgEngineOptions options_;
  std::vector<std::unique_ptr<SendRecord>> records_;
  std::vector<SendRecord*> free_;  // last in, first out: a plain engine uses one record only
  ReleaseLedger ledger_;
  EngineCounters counters_;
};

}  // namespace multifd
