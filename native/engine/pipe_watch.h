// Whether a connection ran dry while its sender waited for releases. A higher mark helps then, and
// only then: not where the network is full, and not where the receiver is what everybody waits for.
// Judged from tcp_info(7), which costs one system call per wait.
#pragma once

#include <cstdint>

struct tcp_info;

namespace multifd {

class PipeWatch {
 public:
  // At the end of a wait. `now_us` is monotonic.
  bool ran_dry(const tcp_info& state, uint64_t now_us);

 private:
  uint64_t receiver_limited_us_ = 0;  // tcpi_rwnd_limited at the end of the wait before
  uint64_t ended_us_ = 0;             // when that was
};

}  // namespace multifd
