// What fake kernels have in common: the far end of a connection, which reads zero-copy memory only
// when it releases it, so that a record that is used again too early shows up as wrong bytes there.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "check.h"

namespace fixture {

// Probabilities are in percent, per call.
struct Faults {
  uint64_t short_send = 0;
  uint64_t eagain = 0;
  uint64_t interrupted = 0;      // EINTR, of sends and of polls
  uint64_t option_memory = 0;    // ENOBUFS or ENOMEM while completions are queued or pending
  uint64_t late = 0;             // a poll passes without a completion
  uint64_t out_of_order = 0;     // any pending send completes, not the oldest
  uint64_t coalesced = 0;        // a completion extends the one queued before it
  uint64_t copied = 0;
  uint64_t stray = 0;            // a completion that was never due
  uint64_t no_notification = 0;  // io_uring: a zero-copy result that says none will follow
  size_t zero_copy_max = SIZE_MAX;  // one zero-copy send of more is refused: locked memory
  size_t send_max = SIZE_MAX;       // every send comes short at this
  int refuse_zero_copy = 0;         // io_uring: errno of every zero-copy send
  int refuse_fixed = 0;             // io_uring: errno of every send from a registered buffer
};

class FakeWire {
 public:
  FakeWire(Faults faults, uint64_t seed) : faults_(faults), random_(seed) {}
  FakeWire(const FakeWire&) = delete;
  FakeWire& operator=(const FakeWire&) = delete;

  // What arrived: whole once everything is released.
  [[nodiscard]] const std::vector<uint8_t>& stream() const { return stream_; }
  [[nodiscard]] size_t pending_bytes() const { return pending_bytes_; }
  [[nodiscard]] size_t pending_sends() const { return pending_.size(); }
  [[nodiscard]] size_t pending_high_bytes() const { return pending_high_bytes_; }
  // True when a send that is not released yet reads from these bytes.
  [[nodiscard]] bool reads(const void* begin, size_t size) const;
  // The peer stops reading: a little more is taken, nothing is released.
  void stall() {
    never_completes = true;
    accept_until_ = stream_.size() + (size_t{1} << 20);
  }

  std::function<void()> on_poll;  // called at each poll, before anything else
  bool never_completes = false;   // whatever is polled
  int fail_sends_with = 0;        // errno of every send from now on

 protected:
  struct Pending {
    uint64_t id;
    size_t offset;  // in the stream
    std::vector<iovec> parts;
    size_t bytes;
  };
  bool chance(uint64_t percent) { return random_.below(100) < percent; }
  [[nodiscard]] bool is_full() const { return stream_.size() >= accept_until_; }
  // Takes `bytes` from the front of the parts: at once, or when it is completed.
  void accept(const iovec* parts, size_t bytes, bool later, uint64_t id);
  // Ends one pending send, by age or any; there is one.
  Pending finish();
  Pending finish(size_t index);

  const Faults faults_;
  check::Random random_;

 private:
  void read_now(const Pending& send);
  std::vector<uint8_t> stream_;
  std::vector<Pending> pending_;
  size_t pending_bytes_ = 0;
  size_t pending_high_bytes_ = 0;
  size_t accept_until_ = SIZE_MAX;
};

}  // namespace fixture
