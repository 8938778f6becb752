// A kernel for one socket, as far as an engine sees it: it takes bytes, refuses, comes short, and
// tells late, in any order, what it released. It reads zero-copy memory only when it releases it,
// so that a record that is reused too early shows up as wrong bytes at the other end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/syscalls.h"
#include "check.h"

namespace fixture {

// Probabilities are in percent, per call.
struct Faults {
  uint64_t short_send = 0;
  uint64_t eagain = 0;
  uint64_t interrupted = 0;      // EINTR, of sends and of polls
  uint64_t option_memory = 0;    // ENOBUFS while completions are queued or pending
  uint64_t late = 0;             // a poll passes without a completion
  uint64_t out_of_order = 0;     // any pending send completes, not the oldest
  uint64_t coalesced = 0;        // a completion extends the one queued before it
  uint64_t copied = 0;
  uint64_t stray = 0;            // a completion that was never due
  size_t zero_copy_max = SIZE_MAX;  // one zero-copy send of more is refused: locked memory
  size_t send_max = SIZE_MAX;       // every send comes short at this
};

class FakeKernel {
 public:
  // The table refers to the kernel made last; one at a time.
  FakeKernel(Faults faults, uint64_t seed, uint32_t first_id = 0);
  ~FakeKernel();
  FakeKernel(const FakeKernel&) = delete;
  FakeKernel& operator=(const FakeKernel&) = delete;
  [[nodiscard]] const multifd::Syscalls& table() const;

  // What arrived: whole once everything is released.
  [[nodiscard]] const std::vector<uint8_t>& stream() const { return stream_; }
  [[nodiscard]] size_t pending_bytes() const { return pending_bytes_; }
  [[nodiscard]] size_t pending_sends() const { return pending_.size(); }
  [[nodiscard]] size_t pending_high_bytes() const { return pending_high_bytes_; }
  [[nodiscard]] size_t unread_notifications() const { return notifications_.size(); }
  // True when a send that is not released yet reads from these bytes.
  [[nodiscard]] bool reads(const void* begin, size_t size) const;

  // Completes the pending send with this index in order of age, and queues its notification.
  void complete(size_t index = 0);
  void complete_all() {
    while (!pending_.empty()) complete();
  }
  void forge(uint32_t first, uint32_t last) { notifications_.push_back({first, last, false}); }
  // Called at each poll, before anything else.
  std::function<void()> on_poll;
  bool never_completes = false;  // whatever is polled
  int fail_sends_with = 0;       // errno of every send from now on

 private:
  struct Pending {
    uint32_t id;
    size_t offset;  // in the stream
    std::vector<iovec> parts;
    size_t bytes;
  };
  struct Queued {
    uint32_t first;
    uint32_t last;
    bool copied;
  };
  bool chance(uint64_t percent) { return random_.below(100) < percent; }
  ssize_t send(const msghdr* message, int flags);
  ssize_t receive_error_queue(msghdr* message);
  int poll(pollfd* fds, nfds_t count);
  void read_now(const Pending& send);
  int refusal(size_t bytes, bool zero_copy);

  static FakeKernel* current_;
  const Faults faults_;
  check::Random random_;
  uint32_t next_id_;
  std::vector<uint8_t> stream_;
  std::vector<Pending> pending_;
  std::vector<Queued> notifications_;
  size_t pending_bytes_ = 0;
  size_t pending_high_bytes_ = 0;
};

}  // namespace fixture
