// Tests of the rules that every engine follows at the marks, and of what counts as a dry pipe.
#include "engine/flush_gate.h"

#include <linux/tcp.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "check.h"

namespace {

using multifd::EngineCounters;
using multifd::FlushGate;
using multifd::PipeState;
using multifd::PipeWatch;
using multifd::SendRecord;
using multifd::Syscalls;
using multifd::WaterMarks;

constexpr size_t kKiB = 1024;

struct Gate {
  explicit Gate(uint64_t high, uint64_t low = 0) : marks{high, low} {}
  bool admit(size_t bytes) {
    record->bytes = bytes;
    return gate.admit(*record);
  }
  WaterMarks marks;
  EngineCounters counters;
  Syscalls syscalls{};
  std::unique_ptr<SendRecord> record = std::make_unique<SendRecord>();
  FlushGate gate{marks, counters, syscalls, -1};
};

TEST("a record goes zero-copy if the mark, the bound and its own size allow it") {
  Gate gate(64 * kKiB);
  CHECK(!gate.admit(16 * kKiB - 1));
  CHECK_EQ(gate.counters.zero_copy_tried_bytes, 0U);
  gate.marks.zero_copy_until_bytes = 100 * kKiB;
  CHECK(gate.admit(99 * kKiB));
  CHECK(gate.admit(200 * kKiB));  // the one that passes the bound
  CHECK(!gate.admit(200 * kKiB));
  CHECK_EQ(gate.counters.zero_copy_tried_bytes, uint64_t{299 * kKiB});
  gate.marks.zero_copy_until_bytes = UINT64_MAX;
  gate.marks.high_bytes = 16 * kKiB - 1;  // no call worth a notification fits below it
  CHECK(!gate.admit(200 * kKiB));
}

TEST("a record is cut into even calls of at most a quarter of the mark, and no less than 16 KiB") {
  check::Random random(check::seed());
  for (int i = 0; i < 2000; ++i) {
    const uint64_t high = 16 * kKiB + random.below(8192 * kKiB);
    Gate gate(high);
    const size_t bytes = 16 * kKiB + random.below(2048 * kKiB);
    CHECK(gate.admit(bytes));
    const size_t most = std::max<size_t>(16 * kKiB, high / 4);
    size_t left = bytes;
    size_t least = SIZE_MAX;
    size_t calls = 0;
    for (; left > 0; ++calls) {
      const size_t call = gate.gate.call_bytes(left);
      CHECK(call > 0 && call <= most && call <= high);
      least = std::min(least, call);
      left -= call;
    }
    CHECK_EQ(calls, (bytes + most - 1) / most);
    CHECK(least + calls >= bytes / calls);
  }
}

TEST("a wait goes down to the low mark, or lower if the call needs it") {
  Gate gate(400 * kKiB, 200 * kKiB);
  CHECK(gate.admit(100 * kKiB));
  CHECK(!gate.gate.must_wait(300 * kKiB, 100 * kKiB));
  CHECK(gate.gate.must_wait(300 * kKiB + 1, 100 * kKiB));
  CHECK_EQ(gate.gate.wait_target(100 * kKiB), 200 * kKiB);
  CHECK_EQ(gate.gate.wait_target(350 * kKiB), 50 * kKiB);
  Gate low_above_high(100 * kKiB, 900 * kKiB);
  CHECK(low_above_high.admit(100 * kKiB));
  CHECK_EQ(low_above_high.gate.wait_target(25 * kKiB), 75 * kKiB);
}

TEST("a connection that does not tell is never dry") {
  Gate gate(64 * kKiB);
  gate.syscalls.tcp_state = [](int, tcp_info*) {
    errno = ENOTSOCK;
    return -1;
  };
  gate.gate.waited();
  CHECK_EQ(gate.counters.waits_at_high_water, 1U);
  CHECK_EQ(gate.counters.dry_waits, 0U);
  CHECK_EQ(gate.counters.queued_waits, 0U);
}

TEST("a pipe ran dry if nothing is unsent, the network is empty and the receiver has room") {
  const auto state = [](uint32_t unsent, uint32_t rtt, uint64_t limited) {
    tcp_info info{};
    info.tcpi_notsent_bytes = unsent;
    info.tcpi_min_rtt = 500;
    info.tcpi_rtt = rtt;
    info.tcpi_rwnd_limited = limited;
    return info;
  };
  constexpr auto kDry = PipeState::kDry;
  constexpr auto kQueued = PipeState::kQueued;
  CHECK(PipeWatch().after_wait(state(0, 600, 0), 1'000'000) == kDry);
  CHECK(PipeWatch().after_wait(state(1, 600, 0), 1'000'000) == PipeState::kBusy);
  CHECK(PipeWatch().after_wait(state(0, 2000, 0), 1'000'000) == kDry);
  CHECK(PipeWatch().after_wait(state(0, 2001, 0), 1'000'000) == kQueued);
  CHECK(PipeWatch().after_wait(state(1, 2001, 0), 1'000'000) == kQueued);
  PipeWatch watch;
  CHECK(watch.after_wait(state(0, 600, 1000), 1'000'000) == kDry);
  // A quarter of the last millisecond.
  CHECK(watch.after_wait(state(0, 600, 1250), 1'001'000) == kQueued);
  CHECK(watch.after_wait(state(0, 600, 1499), 1'002'000) == kDry);
  CHECK(watch.after_wait(state(0, 600, 9000), 1'010'000) == kQueued);
}

}  // namespace
