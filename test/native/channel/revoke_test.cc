// Tests of channels whose memory is taken away, by an owner that ends, from any thread.
#include <thread>

#include "channel_fixture.h"

namespace {

using namespace fixture;  // NOLINT

TEST("memory that is revoked stops the channels that use it") {
  const CensusCheck before;
  {
    const auto memory = make_memory(1 << 20);
    auto group = ReceiveGroup::create(memory);
    CHECK_OK(group);
    auto [ours, theirs] = unix_pair();
    ReceiveCells cells{};
    TestWakeup wakeup;
    auto channel = ReceiveChannel::start(
        std::move(theirs), {.channel_id = 0, .counters = cells.data()}, *group, wakeup);
    CHECK_OK(channel);
    memory->revoke();
    wakeup.expect(**channel, EventKind::kClosed);
    auto [second, other] = unix_pair();
    CHECK(!ReceiveChannel::start(std::move(other), {.channel_id = 1, .counters = cells.data()},
                                 *group, wakeup));
  }
  before.expect_unchanged();
}

TEST("memory may be revoked from another thread while channels start") {
  const CensusCheck before;
  for (int i = 0; i < 200; ++i) {
    const auto memory = make_memory(64 * kPageSize);
    auto group = ReceiveGroup::create(memory);
    CHECK_OK(group);
    auto made = make_vmm_tracker(memory);
    CHECK_OK(made);
    auto ram = RamState::create(memory, std::move(made->tracker));
    CHECK_OK(ram);
    const PlainListener listener;
    auto [ours, theirs] = unix_pair();
    ReceiveCells receive_cells{};
    SendCells send_cells{};
    TestWakeup receive_wakeup;
    TestWakeup send_wakeup;
    std::thread revoker([&] { memory->revoke(); });
    auto receiving = ReceiveChannel::start(
        std::move(theirs), {.channel_id = 0, .counters = receive_cells.data()}, *group,
        receive_wakeup);
    auto sending = SendChannel::start(
        {.endpoint = listener.endpoint(), .initial = {}, .counters = send_cells.data()},
        std::make_shared<SendGroup>(*ram), send_wakeup);
    revoker.join();
    if (receiving) {
      receive_wakeup.expect(**receiving, EventKind::kClosed);
    } else {
      CHECK(receiving.error().code == ErrorCode::kClosed);
    }
    if (!sending) CHECK(sending.error().code == ErrorCode::kClosed);
  }
  before.expect_unchanged();
}

}  // namespace
