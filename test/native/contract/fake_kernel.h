// A kernel for one socket, as far as the sendmsg engine sees it: it takes bytes, refuses, comes
// short, and tells late, in any order, what it released.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/syscalls.h"
#include "fake_wire.h"

namespace fixture {

class FakeKernel : public FakeWire {
 public:
  // The table refers to the kernel made last; one at a time.
  FakeKernel(Faults faults, uint64_t seed, uint32_t first_id = 0);
  ~FakeKernel();
  [[nodiscard]] const multifd::Syscalls& table() const;
  [[nodiscard]] size_t unread_notifications() const { return notifications_.size(); }

  // Completes the pending send with this index in order of age, and queues its notification.
  void complete(size_t index = 0) { notify(finish(index)); }
  void complete_all() {
    while (pending_sends() > 0) complete();
  }
  void forge(uint32_t first, uint32_t last) { notifications_.push_back({first, last, false}); }

  // What vmsplice(2) and splice(2) answer from now on, with this errno; 0: they work.
  int refuse_fill = 0;
  int refuse_drain = 0;
  size_t pipe_slots = 128;  // a page each

  void restart_ids() { next_id_ = 0; }  // for a second engine, as on a socket of its own

  int last_flags = 0;     // of the last send; MSG_MORE for a splice that said so
  bool runs_dry = false;  // what TCP_INFO says of the connection

 private:
  struct Queued {
    uint32_t first;
    uint32_t last;
    bool copied;
  };
  ssize_t send(const msghdr* message, int flags);
  ssize_t receive_error_queue(msghdr* message);
  ssize_t fill_pipe(const iovec* parts, size_t count);
  ssize_t drain_pipe(size_t bytes, unsigned flags);
  int poll(pollfd* fds, nfds_t count);
  int tcp_state(tcp_info& out) const;
  void notify(const Pending& send);
  int refusal(size_t bytes, bool zero_copy);

  static FakeKernel* current_;
  bool option_memory_full_ = false;  // at the send before
  uint32_t next_id_;
  std::vector<Queued> notifications_;
  std::vector<iovec> piped_;
};

}  // namespace fixture
