// The engine over io_uring: plain sends, zero-copy, or zero-copy from registered guest memory. One
// ring per channel thread, which makes it, submits and reaps. One record is sent at a time, as one
// chain of linked requests; notifications are taken whenever the thread is in the kernel anyway,
// and waited for only at the high-water mark. What the kernel refuses is done the plainer way.
#pragma once

#include <array>

#include "base/io_uring.h"
#include "base/syscalls.h"
#include "engine/engine.h"
#include "engine/flush_gate.h"
#include "engine/probe.h"
#include "engine/record_pool.h"
#include "engine/registered_memory.h"
#include "engine/uring_chain.h"

namespace multifd {

struct UringEngineOptions {
  int fd = -1;  // blocking stream socket; the caller owns it and outlives the engine
  SendMode mode = SendMode::kPlain;  // the best to try
  std::shared_ptr<const RegisteredMemory> memory;  // for kZeroCopyFixed
  const WaterMarks* water_marks = nullptr;
  const std::atomic<bool>* stop = nullptr;  // true: give up waiting
  const Syscalls* syscalls = &kKernelSyscalls;
};

// A ring that is ready to send, and what it can; tests bring one of their own.
struct UringSetup {
  std::unique_ptr<Ring> ring;
  SendMode mode = SendMode::kPlain;
  Downgrades downgrades;
  bool file_registered = false;  // the socket is file 0 of the ring
  bool fixed_sendmsg = false;    // several parts in one fixed request, not only one
  const FixedBuffers* buffers = nullptr;  // for kZeroCopyFixed; outlives the engine
  uint32_t generation = 0;       // before the first use of a slot; for tests of its wrap
};

class UringEngine final : public Engine {
 public:
  // On the channel's thread. Fails only where plain sends through io_uring are not to be had.
  static Result<std::unique_ptr<UringEngine>> create(const UringEngineOptions& options,
                                                     const IoUringAbilities& abilities);
  UringEngine(const UringEngineOptions& options, UringSetup setup);
  ~UringEngine() override;
  UringEngine(const UringEngine&) = delete;
  UringEngine& operator=(const UringEngine&) = delete;

  Result<SendRecord*> acquire() override;
  Result<void> submit(SendRecord& record) override;
  void begin_extent() override { counters_.unreleased_recent_high_bytes = unreleased_bytes_; }
  Result<void> flush(size_t target_bytes) override;
  [[nodiscard]] size_t unreleased_bytes() const override { return unreleased_bytes_; }
  [[nodiscard]] const EngineCounters& counters() const override { return counters_; }
  [[nodiscard]] SendMode mode() const override { return setup_.mode; }
  [[nodiscard]] const Downgrades& downgrades() const override { return setup_.downgrades; }
  bool reset() override;

 private:
  static constexpr uint32_t kSlots = 256;

  // A request the kernel knows of, from submission until it is released.
  struct Slot {
    uint32_t generation = 0;  // tells a completion of this use from one of an earlier use
    uint32_t record = 0;
    uint32_t position = 0;  // in the chain
    size_t bytes = 0;       // that count as unreleased
    bool zero_copy = false;
    bool result_due = false;
    bool notification_due = false;
  };

  Result<void> send_all(SendRecord& record, bool zero_copy);
  Result<void> make_room(size_t call_bytes);
  Result<void> run_chain(SendRecord& record);
  uint64_t take_slot(SendRecord& record, uint32_t position);
  Result<void> on_refusal(const UringChain::Outcome& outcome, bool& zero_copy,
                          size_t& limit);
  void step_down(int error);
  Result<void> wait_for_release();
  bool reap();
  bool apply(const Completion& completion);
  void on_result(Slot& slot, const Completion& completion);
  void release(Slot& slot);
  void cancel_all();

  const UringEngineOptions options_;
  std::array<Slot, kSlots> slots_;
  std::vector<uint32_t> free_slots_;
  size_t unreleased_bytes_ = 0;  // of zero-copy requests
  uint32_t results_due_ = 0;
  EngineCounters counters_;
  FlushGate gate_;

  UringChain chain_;  // valid until its results are in
  RecordPool pool_;
  UringSetup setup_;  // declared last: the ring goes before the records it may refer to
};

}  // namespace multifd
