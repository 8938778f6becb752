// The rules of the flush thresholds, the same for every engine: which record goes zero-copy, how
// much one kernel call may carry, when to wait and down to where. The numbers come from the policy
// in TypeScript by three atomics; sending, reaping and waiting are the engine's.
#pragma once

#include "base/syscalls.h"
#include "engine/engine.h"
#include "engine/pipe_watch.h"

namespace multifd {

class FlushGate {
 public:
  FlushGate(const WaterMarks& marks, EngineCounters& counters, const Syscalls& syscalls, int fd)
      : marks_(marks), counters_(counters), syscalls_(syscalls), fd_(fd) {}

  // Reads the marks, which hold for this record. True: it goes zero-copy, and counts as tried.
  bool admit(const SendRecord& record);
  // How much the next zero-copy call may carry of the `left` bytes of the record: even parts of at
  // most a quarter of the high mark, so that sends overlap with releases below a small mark.
  [[nodiscard]] size_t call_bytes(size_t left) const;
  // The high mark is a bound: a call that would pass it waits.
  [[nodiscard]] bool must_wait(size_t unreleased, size_t call_bytes) const {
    return unreleased + call_bytes > high_;
  }
  // How much may be unreleased when that wait ends: the low mark, or less if the call needs it.
  [[nodiscard]] size_t wait_target(size_t call_bytes) const;
  // Such a wait is over: counts it, and what the connection did meanwhile.
  void waited();
  // Zero-copy bytes were accepted; `unreleased` are now.
  void accepted(size_t unreleased);

 private:
  const WaterMarks& marks_;
  EngineCounters& counters_;
  const Syscalls& syscalls_;
  const int fd_;
  uint64_t high_ = 0;
  uint64_t low_ = 0;
  PipeWatch pipe_;
};

}  // namespace multifd
