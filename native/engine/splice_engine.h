// The engine over vmsplice(2) and splice(2): guest pages go into the socket by reference, through a
// pipe of its own, and are copied once, by whoever receives them. That is how bytes stay uncopied
// on loopback, where the kernel copies what MSG_ZEROCOPY sends before the receiver copies it again.
//
// It costs no locked memory and no notifications, because nobody is told when a page is let go: the
// kernel holds it until the peer has read it, and the peer reads what it holds *then*. Nothing may
// depend on the moment. A page that changes meanwhile is dirty, and goes out again with a later
// round; for the last round the guest stands still until the destination has everything. Records
// are free at once: what is not guest memory (headers, bodies of a record's own, whatever is
// `plain`, as states of devices are) is copied.
#pragma once

#include <memory>

#include "base/syscalls.h"
#include "base/unique_fd.h"
#include "engine/engine.h"
#include "engine/record_pool.h"

namespace multifd {

struct SpliceEngineOptions {
  int fd = -1;  // blocking stream socket; the caller owns it and outlives the engine
  const std::atomic<bool>* stop = nullptr;  // true: give up waiting
  const Syscalls* syscalls = &kKernelSyscalls;
};

class SpliceEngine final : public Engine {
 public:
  // splice(2) has no MSG_NOSIGNAL, so SIGPIPE is blocked in the calling thread from here on; it is
  // the channel's.
  explicit SpliceEngine(const SpliceEngineOptions& options);
  SpliceEngine(const SpliceEngine&) = delete;
  SpliceEngine& operator=(const SpliceEngine&) = delete;

  Result<SendRecord*> acquire() override;
  Result<void> submit(SendRecord& record) override;
  void begin_extent() override {}
  Result<void> flush(size_t) override { return {}; }
  [[nodiscard]] size_t unreleased_bytes() const override { return 0; }
  [[nodiscard]] const EngineCounters& counters() const override { return counters_; }
  [[nodiscard]] SendMode mode() const override {
    return downgrades_.count() == 0 ? SendMode::kSplice : SendMode::kPlain;
  }
  [[nodiscard]] const Downgrades& downgrades() const override { return downgrades_; }
  bool reset() override;

 private:
  void open_pipe();
  Result<void> send_copied(msghdr rest, bool more);
  Result<void> send_spliced(msghdr rest, bool more);
  Result<size_t> drain(size_t bytes, bool more);
  Result<void> after_failure(const char* syscall, int cause, size_t bytes);
  void step_down(const char* syscall, int cause);

  const SpliceEngineOptions options_;
  // Made with the first pages; empty between submissions; both closed after a step down.
  UniqueFd pipe_in_;
  UniqueFd pipe_out_;
  RecordPool pool_{1};
  EngineCounters counters_;
  Downgrades downgrades_;
};

}  // namespace multifd
