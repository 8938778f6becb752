// How channel threads tell the JavaScript thread: a small ring per thread, and one wake-up per turn
// of the event loop however many events there are. No locks, no allocation.
#pragma once

#include <array>
#include <atomic>
#include <cassert>
#include <cstdint>

namespace multifd {

// Values are shared with src/channel/native-events.ts.
enum class EventKind : uint32_t {
  kReady = 1,        // connected, initial packet sent
  kExtentDone = 2,   // value: bytes it took on the wire
  kSyncDone = 3,     // source: flushed, SYNC packet sent
  kSyncArrived = 4,  // destination: parked at a SYNC, waits for release
  kPeerEnd = 5,      // destination: the source closed the channel between two packets
  kFailed = 6,       // error() says why; nothing but kClosed follows
  kClosed = 7,       // the thread is about to end: join does not block
  kAccepted = 8,     // listener: take_accepted() has something
  kDeviceStateDone = 9,  // source: value: bytes it took on the wire; its memory is given back
  kDeviceState = 10,     // destination: parked with a device's state of so many bytes, to be taken
};

struct Event {
  EventKind kind = EventKind::kClosed;
  double value = 0;
};

// Wakes one JavaScript environment. `call` must be callable from any thread and not block.
class Wakeup {
 public:
  virtual ~Wakeup() = default;
  void notify() {
    // Pairs with disarm(): the exchange there makes every event pushed before it visible.
    if (!armed_.exchange(true, std::memory_order_acq_rel)) wake();
  }
  // The JavaScript thread, before it reads the rings.
  void disarm() { armed_.exchange(false, std::memory_order_acq_rel); }

 protected:
  virtual void wake() = 0;

 private:
  std::atomic<bool> armed_{false};
};

// Bound: a channel holds at most 32 extents of credit, 4 device states until their events were
// read, one sync and three life-cycle events, so the ring is never full; that is our own promise,
// hence an assertion.
class EventRing {
 public:
  void push(Event event) {  // the owning thread
    const uint32_t tail = tail_.load(std::memory_order_relaxed);
    assert(tail - head_.load(std::memory_order_acquire) < kCapacity);
    events_[tail % kCapacity] = event;
    tail_.store(tail + 1, std::memory_order_release);  // pairs with the acquire in pop()
  }
  bool pop(Event& out) {  // the JavaScript thread
    const uint32_t head = head_.load(std::memory_order_relaxed);
    if (head == tail_.load(std::memory_order_acquire)) return false;
    out = events_[head % kCapacity];
    head_.store(head + 1, std::memory_order_release);  // pairs with the acquire in push()
    return true;
  }

 private:
  static constexpr uint32_t kCapacity = 64;
  std::array<Event, kCapacity> events_;
  std::atomic<uint32_t> head_{0};
  std::atomic<uint32_t> tail_{0};
};

}  // namespace multifd
