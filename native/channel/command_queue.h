// What a sending channel has to do, in the order of submission: slots that payloads are swapped
// into by any thread and worked on in place by the channel's own. The mutex is held for a swap,
// once per submission and command, never per page.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "payload/send_payload.h"

namespace multifd {

enum class CommandKind : uint8_t { kPayload, kSync, kClose };

struct Command {
  CommandKind kind = CommandKind::kPayload;
  SendPayload payload;
};

class CommandQueue {
 public:
  // Device states a channel takes until their memory was given back; the ones behind it wait with
  // whoever has them. A few, so that the thread finds the next one while the first is announced.
  static constexpr uint32_t kDeviceStatesMax = 4;
  // 32 extents of credit, the device states, a sync and a close; rounded up.
  static constexpr uint32_t kCapacity = 64;

  // Any thread. True: `payload` changed places with a slot's nothing. False: there is no room.
  bool submit(SendPayload& payload);
  bool submit_sync() { return enqueue(CommandKind::kSync, nullptr); }
  bool submit_close() { return enqueue(CommandKind::kClose, nullptr); }
  // Ends the wait of next() once the stop flag is set.
  void wake();

  // The channel's thread. Waits for a command, which is its own until done(); null: told to stop.
  Command* next(const std::atomic<bool>& stop);
  // The command of next() was carried out. A device's state stays in its slot until take_back().
  void done();
  // Nobody has to submit anything soon: the thread has more than `payloads` to go on with, or what
  // it has ends with a sync.
  [[nodiscard]] bool lasts(uint32_t payloads);
  // The kernel may go on reading the memory of the command that next() gave: it is held for ever.
  void leak_payload();

  // JavaScript thread, once for each device state that was announced as sent: what was submitted
  // first and is done. Nothing is held when it is destroyed.
  SendPayload take_back();

 private:
  bool enqueue(CommandKind kind, SendPayload* payload);
  void free_slots();
  Command& slot(uint32_t number) { return slots_[number % kCapacity]; }

  std::mutex mutex_;
  std::condition_variable submitted_anew_;
  // Under the mutex; numbers only grow. Slots between `free_` and `done_` hold device states on
  // their way back, those up to `submitted_` are the thread's, one at a time.
  uint32_t free_ = 0;
  uint32_t done_ = 0;
  uint32_t submitted_ = 0;
  uint32_t device_states_ = 0;
  bool ends_with_sync_ = false;
  std::array<Command, kCapacity> slots_;
};

}  // namespace multifd
