// One device's state on its way from a receiving thread to whoever loads it. It changes owner by
// swapping, and the thread waits until it was taken: a channel never holds more than one.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "wire/device_packet.h"

namespace multifd {

struct ReceivedDeviceState {
  DeviceHeader header;
  std::unique_ptr<uint8_t[]> bytes;  // header.payload_bytes
};

class DeviceStateSlot {
 public:
  // The receiving thread, which then waits. False: told to stop.
  bool put(ReceivedDeviceState& state) {
    std::swap(state_, state);
    uint32_t empty = kEmpty;
    return at_.compare_exchange_strong(empty, kFull);  // pairs with take()
  }
  bool wait_until_taken() {
    at_.wait(kFull);
    return at_.load() == kEmpty;
  }
  // JavaScript thread. False: there is nothing to take.
  bool take(ReceivedDeviceState& out) {
    if (at_.load() != kFull) return false;  // after a stop the thread no longer looks here either
    std::swap(state_, out);
    uint32_t full = kFull;
    at_.compare_exchange_strong(full, kEmpty);
    at_.notify_one();
    return true;
  }
  // Any thread: ends the wait, for ever.
  void stop() {
    at_.store(kStopped);
    at_.notify_one();
  }

 private:
  static constexpr uint32_t kEmpty = 0, kFull = 1, kStopped = 2;
  ReceivedDeviceState state_;  // the thread's unless full
  std::atomic<uint32_t> at_{kEmpty};
};

}  // namespace multifd
