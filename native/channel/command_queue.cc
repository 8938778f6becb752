#include "channel/command_queue.h"

#include <cassert>
#include <utility>

namespace multifd {

bool CommandQueue::submit(SendPayload& payload) { return enqueue(CommandKind::kPayload, &payload); }

bool CommandQueue::enqueue(CommandKind kind, SendPayload* payload) {
  const bool device_state = payload != nullptr && is_device_state(*payload);
  {
    const std::lock_guard lock(mutex_);
    if (submitted_ - free_ == kCapacity) return false;
    if (device_state && device_states_ == kDeviceStatesMax) return false;
    if (device_state) ++device_states_;
    Command& empty = slot(submitted_++);
    empty.kind = kind;
    ends_with_sync_ = kind == CommandKind::kSync;
    if (payload != nullptr) std::swap(empty.payload, *payload);
  }
  submitted_anew_.notify_one();
  return true;
}

void CommandQueue::wake() {
  { const std::lock_guard lock(mutex_); }  // not between the waiter's look at the flag and its wait
  submitted_anew_.notify_one();
}

Command* CommandQueue::next(const std::atomic<bool>& stop) {
  std::unique_lock lock(mutex_);
  submitted_anew_.wait(lock, [&] { return stop.load() || submitted_ != done_; });
  return stop.load() ? nullptr : &slot(done_);
}

void CommandQueue::done() {
  const std::lock_guard lock(mutex_);
  ++done_;
  free_slots();
}

bool CommandQueue::lasts(uint32_t payloads) {
  const std::lock_guard lock(mutex_);
  const uint32_t waiting = submitted_ - done_;
  return waiting > payloads || (waiting > 0 && ends_with_sync_);
}

void CommandQueue::leak_payload() {
  const std::lock_guard lock(mutex_);
  if (submitted_ == done_) return;
  static_cast<void>(new SendPayload(std::exchange(slot(done_).payload, SendPayload())));
}

SendPayload CommandQueue::take_back() {
  SendPayload payload;
  const std::lock_guard lock(mutex_);
  assert(free_ != done_ && "a device state is taken back for each that was announced");
  std::swap(slot(free_).payload, payload);
  --device_states_;
  free_slots();
  return payload;
}

// Up to the first device state that was not taken back.
void CommandQueue::free_slots() {
  while (free_ != done_ && !is_device_state(slot(free_).payload)) {
    slot(free_++).payload = SendPayload();
  }
}

}  // namespace multifd
