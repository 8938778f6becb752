// Which zero-copy sends the kernel still reads from. Every successful send takes the next id of a
// 32-bit counter that wraps; notifications name ids, may coalesce, overtake each other, or repeat.
// Pure book-keeping: no sockets, no clock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/errqueue.h"

namespace multifd {

class ReleaseLedger {
 public:
  // Room for `capacity` unreleased sends (a power of two); `first_id` is the kernel's next id.
  explicit ReleaseLedger(uint32_t capacity, uint32_t first_id = 0);

  // No room: reap before sending. Bounded by the oldest unreleased id, not by the count.
  [[nodiscard]] bool full() const { return next_id_ - oldest_ >= entries_.size(); }
  [[nodiscard]] size_t unreleased_bytes() const { return unreleased_bytes_; }
  [[nodiscard]] uint32_t unreleased_sends() const { return unreleased_sends_; }

  // The kernel accepted a send of `bytes` for record `record`; not when full().
  void sent(uint32_t record, size_t bytes);

  struct Released {
    size_t bytes = 0;
    uint32_t sends = 0;
    uint32_t unknown = 0;  // ids that were not outstanding: forged or repeated, ignored
  };
  // Marks the ids of the notification as released and calls on_send(record) once for each.
  template <typename OnSend>
  Released release(const Notification& notification, OnSend on_send) {
    Released released;
    // Unsigned difference handles the wrap. A range longer than what is outstanding is walked only
    // as far as ids exist, so that a forged one costs nothing.
    const uint64_t count = uint64_t{notification.last - notification.first} + 1;
    const uint64_t outstanding_window = next_id_ - oldest_;
    for (uint64_t i = 0; i < outstanding_window; ++i) {
      const uint32_t id = oldest_ + static_cast<uint32_t>(i);
      if (static_cast<uint32_t>(id - notification.first) >= count) continue;
      Entry& entry = entries_[id & mask_];
      if (!entry.outstanding) continue;
      entry.outstanding = false;
      released.bytes += entry.bytes;
      released.sends += 1;
      on_send(entry.record);
    }
    unreleased_bytes_ -= released.bytes;
    unreleased_sends_ -= released.sends;
    released.unknown = static_cast<uint32_t>(
        count > released.sends ? count - released.sends : 0);
    while (oldest_ != next_id_ && !entries_[oldest_ & mask_].outstanding) ++oldest_;
    return released;
  }

 private:
  struct Entry {
    size_t bytes = 0;
    uint32_t record = 0;
    bool outstanding = false;
  };
  std::vector<Entry> entries_;  // ring, indexed by id & mask_
  const uint32_t mask_;
  uint32_t oldest_;   // no id before it is outstanding
  uint32_t next_id_;  // what the kernel gives the next successful send
  uint32_t unreleased_sends_ = 0;
  size_t unreleased_bytes_ = 0;
};

}  // namespace multifd
