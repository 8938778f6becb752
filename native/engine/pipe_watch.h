// What a connection did while its sender waited for releases. A higher mark helps where it ran dry,
// and only there: not where the network is full, and not where the receiver is what everybody waits
// for. Judged from tcp_info (tcp(7), linux/tcp.h), which costs one system call per wait.
#pragma once

#include <cstdint>

struct tcp_info;

namespace multifd {

enum class PipeState : uint8_t {
  kBusy,    // there was something to send all the time
  kDry,     // nothing unsent was left, and nothing else was in the way
  kQueued,  // packets queue in the network, or the receiver's window is what is waited for
};

class PipeWatch {
 public:
  // At the end of a wait. `now_us` is monotonic.
  PipeState after_wait(const tcp_info& state, uint64_t now_us);

 private:
  uint64_t receiver_limited_us_ = 0;  // tcpi_rwnd_limited at the end of the wait before
  uint64_t ended_us_ = 0;             // when that was
};

}  // namespace multifd
