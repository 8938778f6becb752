#include "engine/flush_gate.h"

#include <linux/tcp.h>

#include <algorithm>
#include <chrono>

namespace multifd {
namespace {

uint64_t monotonic_us() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(now).count());
}

}  // namespace

bool FlushGate::admit(const SendRecord& record) {
  high_ = marks_.high_bytes.load(std::memory_order_relaxed);
  low_ = marks_.low_bytes.load(std::memory_order_relaxed);
  if (record.plain || high_ < kZeroCopyMinBytes || record.bytes < kZeroCopyMinBytes) return false;
  const uint64_t until = marks_.zero_copy_until_bytes.load(std::memory_order_relaxed);
  if (counters_.zero_copy_tried_bytes >= until) return false;
  counters_.zero_copy_tried_bytes += record.bytes;
  return true;
}

size_t FlushGate::call_bytes(size_t left) const {
  const size_t most = std::max<size_t>(kZeroCopyMinBytes, high_ / 4);
  const auto divide_up = [](size_t bytes, size_t by) { return bytes / by + (bytes % by != 0); };
  return divide_up(left, divide_up(left, most));
}

size_t FlushGate::wait_target(size_t call_bytes) const {
  return std::min<size_t>(low_, high_ > call_bytes ? high_ - call_bytes : 0);
}

void FlushGate::waited() {
  ++counters_.waits_at_high_water;
  tcp_info state{};
  if (syscalls_.tcp_state(fd_, &state) < 0) return;  // not TCP, or already broken
  switch (pipe_.after_wait(state, monotonic_us())) {
    case PipeState::kDry: ++counters_.dry_waits; break;
    case PipeState::kQueued: ++counters_.queued_waits; break;
    case PipeState::kBusy: break;
  }
}

void FlushGate::accepted(size_t unreleased) {
  counters_.unreleased_high_bytes =
      std::max<uint64_t>(counters_.unreleased_high_bytes, unreleased);
  counters_.unreleased_recent_high_bytes =
      std::max<uint64_t>(counters_.unreleased_recent_high_bytes, unreleased);
}

}  // namespace multifd
