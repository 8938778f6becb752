// Where a receiving thread waits at a SYNC until the main channel has collected it. Each release
// lets one SYNC pass, arrived or still to come; two are never merged.
#pragma once

#include <atomic>
#include <cstdint>

namespace multifd {

class SyncPark {
 public:
  // Any thread. Also what ends a wait when the thread is told to stop: a changed value wakes it,
  // and the stop flag is looked at first.
  void release() {
    released_.fetch_add(1, std::memory_order_release);  // pairs with wait()
    released_.notify_one();
  }
  // The receiving thread, at its SYNC number `syncs`, from 1. False: told to stop.
  bool wait(uint32_t syncs, const std::atomic<bool>& stop) {
    const auto stopped = [&stop] { return stop.load(std::memory_order_relaxed); };
    uint32_t released = released_.load(std::memory_order_acquire);
    while (static_cast<int32_t>(released - syncs) < 0 && !stopped()) {
      released_.wait(released, std::memory_order_acquire);
      released = released_.load(std::memory_order_acquire);
    }
    return !stopped();
  }

 private:
  std::atomic<uint32_t> released_{0};
};

}  // namespace multifd
