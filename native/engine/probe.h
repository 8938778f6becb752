// What this kernel's io_uring can do for sending, found by asking it and by trial sends over a
// private loopback connection: never by its version. For the choice of an engine, for `multifd
// doctor`, and for tests that are skipped with a reason. Needs no channel and leaves nothing open.
#pragma once

#include <cstdint>

namespace multifd {

// Whether something is to be had, and if not, why: a sentence.
struct Ability {
  bool there = false;
  char reason[224] = {};  // empty when there
  explicit operator bool() const { return there; }
};

struct IoUringAbilities {
  Ability io_uring;                 // rings, plain sends, linked requests
  Ability send_zero_copy;           // SEND_ZC
  Ability sendmsg_zero_copy;        // SENDMSG_ZC
  Ability usage_report;             // notifications tell whether the kernel copied after all
  Ability fixed_send;               // SEND_ZC from a registered buffer
  Ability fixed_sendmsg;            // SENDMSG_ZC from a registered buffer
  Ability clone_buffers;            // one registration for the rings of all channels
  uint32_t setup_flags = 0;         // IORING_SETUP_* of a ring for one thread
};

// Milliseconds; any thread, nothing is kept. What a trial could not decide is not there.
IoUringAbilities probe_io_uring();

}  // namespace multifd
