// Counters of a channel, in memory that JavaScript reads in place (a Float64Array). One writer per
// cell, the channel thread; values are whole numbers below 2^53. This file is the one layout: the
// binding exports the names, TypeScript derives its field offsets from them.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>

namespace multifd {

inline constexpr std::array kSendCounterNames = {
    "sentBytes",           "packets",       "normalPages",
    "zeroPages",           "sendCalls",     "unreleasedBytes",
    "unreleasedHighBytes", "unreleasedRecentHighBytes", "zeroCopyTriedBytes",
    "zeroCopyBytes",       "copiedBytes",   "notifications",
    "strayNotifications",  "waitsAtHighWater", "dryWaits", "queuedWaits",
    "refusedByMemlock",    "refusedByOptmem", "deviceStateBytes", "cpuNanoseconds"};
enum class SendCounter : size_t {
  kSentBytes, kPackets, kNormalPages,
  kZeroPages, kSendCalls, kUnreleasedBytes,
  kUnreleasedHighBytes, kUnreleasedRecentHighBytes, kZeroCopyTriedBytes,
  kZeroCopyBytes, kCopiedBytes, kNotifications,
  kStrayNotifications, kWaitsAtHighWater, kDryWaits, kQueuedWaits,
  kRefusedByMemlock, kRefusedByOptmem, kDeviceStateBytes, kCpuNanoseconds, kCount,
};
static_assert(kSendCounterNames.size() == static_cast<size_t>(SendCounter::kCount));

inline constexpr std::array kReceiveCounterNames = {
    "receivedBytes", "packets", "normalPages", "zeroPages", "syncs", "deviceStateBytes",
    "cpuNanoseconds"};
enum class ReceiveCounter : size_t {
  kReceivedBytes, kPackets, kNormalPages, kZeroPages, kSyncs, kDeviceStateBytes,
  kCpuNanoseconds, kCount,
};
static_assert(kReceiveCounterNames.size() == static_cast<size_t>(ReceiveCounter::kCount));

using CounterCell = std::atomic<double>;
static_assert(sizeof(CounterCell) == sizeof(double) && CounterCell::is_always_lock_free);

template <typename Counter>
class CounterCells {
 public:
  explicit CounterCells(CounterCell* cells) : cells_(cells) {}
  void set(Counter counter, double value) {
    cells_[static_cast<size_t>(counter)].store(value, std::memory_order_relaxed);
  }
  void set(Counter counter, uint64_t value) { set(counter, static_cast<double>(value)); }

 private:
  CounterCell* const cells_;
};

// CPU time of the calling thread in nanoseconds.
double thread_cpu_nanoseconds();

}  // namespace multifd
