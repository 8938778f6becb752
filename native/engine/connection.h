// What every engine does alike with the socket it sends on: what a call that accepted nothing
// means, and how a connection is dissolved. Knows no records.
#pragma once

#include <atomic>
#include <cstddef>

#include "base/result.h"
#include "base/syscalls.h"

namespace multifd {

// The stop flag is seen at least this often; a release or a shutdown wakes a poll at once.
inline constexpr int kPollMs = 100;

inline Error stopped() { return Error::make(ErrorCode::kClosed, "the channel was told to stop"); }

struct FailedSend {
  const char* syscall;
  int fd;
  int cause;  // errno; 0 for a call that took nothing without an error
  size_t bytes;
};

// No error: the call may be made again. Where the socket was full (a channel's blocks; this is for
// one that does not) it has waited a little.
Result<void> may_try_again(const FailedSend& failed, const Syscalls& syscalls,
                           const std::atomic<bool>& stop);

// Sends RST and purges the send queue (connect(2), tcp_disconnect); shutdown() alone would leave a
// stalled peer in charge of our memory.
void dissolve(int fd);

}  // namespace multifd
