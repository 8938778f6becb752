#include "engine/pipe_watch.h"

#include <linux/tcp.h>

namespace multifd {
namespace {

// A queue of another round trip is a full network. Below a millisecond it is scheduling.
constexpr uint64_t kQueueSlackUs = 1000;

}  // namespace

PipeState PipeWatch::after_wait(const tcp_info& state, uint64_t now_us) {
  const uint64_t since_us = now_us - ended_us_;
  const uint64_t limited_us = state.tcpi_rwnd_limited - receiver_limited_us_;
  receiver_limited_us_ = state.tcpi_rwnd_limited;
  ended_us_ = now_us;
  const bool network_queues = state.tcpi_rtt > 2 * uint64_t{state.tcpi_min_rtt} + kQueueSlackUs;
  if (network_queues || limited_us * 4 >= since_us) return PipeState::kQueued;
  return state.tcpi_notsent_bytes == 0 ? PipeState::kDry : PipeState::kBusy;
}

}  // namespace multifd
