// Tests of device-state packets from channel to channel: every byte arrives, in the order of
// submission, beside RAM and from several threads; memory is held until it was sent.
#include <sys/syscall.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "channel_fixture.h"
#include "engine/sendmsg_engine.h"
#include "fake_codec.h"

namespace {

using namespace fixture;  // NOLINT
using Bytes = std::vector<uint8_t>;

Bytes pattern(size_t size, uint64_t first) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(first + i * 7 + i / 256);
  return bytes;
}

SendPayload device_payload(std::string_view idstr, const Bytes& prefix,
                           std::shared_ptr<const Bytes> data) {
  const std::span<const uint8_t> bytes = *data;
  auto packet = DevicePacket::create(idstr, 7, prefix, bytes, std::move(data));
  CHECK(packet != nullptr);
  return packet;
}

struct Way {
  EngineKind engine = EngineKind::kSendmsg;
  bool zero_copy = false;
  bool compressed = false;
};

// One channel from one guest's memory to another's.
class Channel {
 public:
  explicit Channel(const Way& way = {})
      : source_(make_memory(kSize)), destination_(make_memory(kSize)) {
    auto ram = RamState::create(source_, make_tracker(TrackerKind::kVmm, source_).tracker);
    CHECK_OK(ram);
    ram_ = *ram;
    for (uint64_t page = 0; page < kSize / kPageSize; ++page) {
      fill_page(source_->blocks()[0].host() + page * kPageSize, page % 5 == 0 ? 0 : page << 20);
    }
    CHECK_OK(ram_->start());
    auto started =
        SendChannel::start({.endpoint = listener_.endpoint(),
                            .initial = {},
                            .engine = way.engine,
                            .zero_copy = way.zero_copy,
                            .high_water_bytes = 4 << 20,
                            .low_water_bytes = 1 << 20,
                            .encoder = way.compressed ? std::make_unique<fake_codec::Encoder>()
                                                      : nullptr,
                            .counters = sent.data()},
                           std::make_shared<SendGroup>(ram_), send_wakeup);
    CHECK_OK(started);
    sending = std::move(*started);
    InitialPacket initial;
    fd_ = listener_.accept_channel(initial);
    send_wakeup.expect(*sending, EventKind::kReady);
    if (way.compressed) decoder_ = std::make_unique<fake_codec::Decoder>();
  }
  void start_receiving() {
    auto group = ReceiveGroup::create(destination_);
    CHECK_OK(group);
    auto started = ReceiveChannel::start(
        std::move(fd_),
        {.channel_id = 0, .decoder = std::move(decoder_), .counters = received.data()}, *group,
        receive_wakeup);
    CHECK_OK(started);
    receiving = std::move(*started);
  }
  // Every page of the guest, in extents.
  std::vector<Extent> begin_round() const {
    CHECK_OK(ram_->begin_round());
    return ram_->plan(1 << 20);
  }
  [[nodiscard]] bool equal() const {
    return same_bytes(source_->blocks()[0].host(), destination_->blocks()[0].host(), kSize);
  }
  ReceivedDeviceState expect_state() {
    receive_wakeup.expect(*receiving, EventKind::kDeviceState);
    ReceivedDeviceState state;
    CHECK(receiving->take_device_state(state));
    return state;
  }
  void close() {
    CHECK(sending->submit_close());
    send_wakeup.expect(*sending, EventKind::kClosed);
    sending->join();
    receive_wakeup.expect(*receiving, EventKind::kPeerEnd);
    CHECK_EQ(cell(sent, SendCounter::kSentBytes), cell(received, ReceiveCounter::kReceivedBytes));
    CHECK_EQ(cell(sent, SendCounter::kPackets), cell(received, ReceiveCounter::kPackets));
    CHECK_EQ(cell(sent, SendCounter::kDeviceStateBytes),
             cell(received, ReceiveCounter::kDeviceStateBytes));
  }
  SendCells sent{};
  ReceiveCells received{};
  TestWakeup send_wakeup;
  TestWakeup receive_wakeup;
  std::unique_ptr<SendChannel> sending;
  std::unique_ptr<ReceiveChannel> receiving;

 private:
  static constexpr size_t kSize = 4 << 20;
  const PlainListener listener_;
  const std::shared_ptr<GuestMemory> source_;
  const std::shared_ptr<GuestMemory> destination_;
  std::shared_ptr<RamState> ram_;
  UniqueFd fd_;
  std::unique_ptr<PayloadDecoder> decoder_;
};

constexpr Way kWays[] = {
    {},
    {.zero_copy = true},
    {.compressed = true},
    {.engine = EngineKind::kSplice},
    {.engine = EngineKind::kIoUring},
    {.engine = EngineKind::kIoUring, .zero_copy = true},
};

TEST("a device's state of any size arrives, and its memory is given back") {
  const CensusCheck before;
  for (const Way& way : kWays) {
    Channel channel(way);
    channel.start_receiving();
    for (const size_t size : {size_t{1}, size_t{1000}, size_t{1} << 20, (size_t{1} << 20) + 1,
                              size_t{16} << 20}) {
      const Bytes prefix = pattern(12, 200);
      auto data = std::make_shared<const Bytes>(pattern(size, size));
      const std::weak_ptr<const Bytes> held = data;
      SendPayload payload = device_payload("0000:00:02.0/vfio", prefix, data);
      CHECK(channel.sending->submit(payload));
      CHECK(std::holds_alternative<std::monostate>(payload));
      const ReceivedDeviceState state = channel.expect_state();
      CHECK(state.header.idstr() == "0000:00:02.0/vfio");
      CHECK_EQ(state.header.instance_id, 7U);
      CHECK_EQ(size_t{state.header.payload_bytes}, prefix.size() + size);
      CHECK(std::equal(prefix.begin(), prefix.end(), state.bytes.get()));
      CHECK(std::equal(data->begin(), data->end(), state.bytes.get() + prefix.size()));
      data.reset();
      CHECK(!held.expired());
      const Event done = channel.send_wakeup.next(*channel.sending);
      CHECK(done.kind == EventKind::kDeviceStateDone);
      CHECK_EQ(done.value, static_cast<double>(kDeviceHeaderSize + prefix.size() + size));
      CHECK(held.expired());
    }
    CHECK_EQ(cell(channel.sent, SendCounter::kZeroCopyTriedBytes), 0.0);
    channel.close();
  }
  before.expect_unchanged();
}

TEST("a state beside extents travels in the order of submission, and behind the last SYNC") {
  for (const Way& way : kWays) {
    Channel channel(way);
    channel.start_receiving();
    const std::vector<Extent> extents = channel.begin_round();
    CHECK(extents.size() >= 2 && extents.size() <= 8);
    std::vector<EventKind> expected;
    for (size_t i = 0; i < 3; ++i) {
      SendPayload payload = device_payload(
          "dev", {static_cast<uint8_t>(i)}, std::make_shared<const Bytes>(pattern(3000, i)));
      CHECK(channel.sending->submit(payload));
      expected.push_back(EventKind::kDeviceStateDone);
      if (i >= extents.size()) continue;
      CHECK(channel.sending->submit_extent(extents[i]));
      expected.push_back(EventKind::kExtentDone);
    }
    for (size_t i = 3; i < extents.size(); ++i) {
      CHECK(channel.sending->submit_extent(extents[i]));
      expected.push_back(EventKind::kExtentDone);
    }
    CHECK(channel.sending->submit_sync());
    expected.push_back(EventKind::kSyncDone);
    SendPayload last =
        device_payload("dev", {3}, std::make_shared<const Bytes>(pattern(1, 3)));
    CHECK(channel.sending->submit(last));
    expected.push_back(EventKind::kDeviceStateDone);
    for (unsigned i = 0; i < 3; ++i) CHECK_EQ(unsigned{channel.expect_state().bytes[0]}, i);
    channel.receive_wakeup.expect(*channel.receiving, EventKind::kSyncArrived);
    CHECK(channel.equal());
    channel.receiving->release_sync();
    CHECK_EQ(unsigned{channel.expect_state().bytes[0]}, 3U);
    for (const EventKind kind : expected) channel.send_wakeup.expect(*channel.sending, kind);
    CHECK_EQ(cell(channel.sent, SendCounter::kDeviceStateBytes),
             static_cast<double>(4 * (kDeviceHeaderSize + 1) + 3 * 3000 + 1));
    channel.close();
  }
}

TEST("a few states are taken at once, the rest when their memory was given back") {
  Channel channel;
  channel.start_receiving();
  const auto data = std::make_shared<const Bytes>(pattern(100, 1));
  const auto submit = [&] {
    SendPayload payload = device_payload("dev", {}, data);
    const bool taken = channel.sending->submit(payload);
    CHECK_EQ(taken, std::holds_alternative<std::monostate>(payload));
    return taken;
  };
  uint32_t taken = 0;
  while (submit()) ++taken;
  CHECK_EQ(taken, CommandQueue::kDeviceStatesMax);
  for (uint32_t i = 0; i < taken; ++i) channel.expect_state();
  // Sent, but nobody has read that: extents and SYNCs have their own room all the same.
  CHECK(!submit());
  for (const Extent& extent : channel.begin_round()) CHECK(channel.sending->submit_extent(extent));
  CHECK(channel.sending->submit_sync());
  channel.send_wakeup.expect(*channel.sending, EventKind::kDeviceStateDone);
  CHECK(submit());
  CHECK(!submit());
  channel.receive_wakeup.expect(*channel.receiving, EventKind::kSyncArrived);
}

TEST("what no packet has room for is no payload") {
  const Bytes room(kDevicePayloadMax);
  const auto make = [&](std::string_view idstr, size_t prefix, size_t data) {
    return DevicePacket::create(idstr, 0, std::span(room).first(prefix),
                                std::span(room).first(data), nullptr) != nullptr;
  };
  CHECK(make("d", 12, kDevicePayloadMax - 12) && make(std::string(255, 'd'), 32, 0));
  CHECK(!make("", 1, 1) && !make(std::string(256, 'd'), 1, 1));
  CHECK(!make(std::string_view("a\0b", 3), 1, 1));
  CHECK(!make("d", 0, 0) && !make("d", 33, 1) && !make("d", 1, kDevicePayloadMax));
}

TEST("several threads submit states while extents flow, and each finds its own order kept") {
  constexpr uint8_t kThreads = 4;
  constexpr uint8_t kStates = 40;
  for (const Way& way : kWays) {
    Channel channel(way);
    channel.start_receiving();
    const std::vector<Extent> extents = channel.begin_round();
    std::mutex mutex;
    std::condition_variable changed;
    uint32_t done = 0;  // states that were announced as sent
    std::vector<std::thread> producers;
    for (uint8_t id = 0; id < kThreads; ++id) {
      producers.emplace_back([&, id] {
        for (uint8_t i = 0; i < kStates; ++i) {
          SendPayload payload = device_payload(
              "dev", {id, i}, std::make_shared<const Bytes>(pattern(size_t{i} * 500, id)));
          std::unique_lock lock(mutex);
          for (uint32_t seen = done; !channel.sending->submit(payload); seen = done) {
            changed.wait(lock, [&] { return done != seen; });
          }
        }
      });
    }
    // The event loop of the source.
    std::thread source([&] {
      size_t extents_done = 0;
      for (const Extent& extent : extents) CHECK(channel.sending->submit_extent(extent));
      while (extents_done < extents.size() || done < uint32_t{kThreads} * kStates) {
        const Event event = channel.send_wakeup.next(*channel.sending);
        extents_done += event.kind == EventKind::kExtentDone;
        if (event.kind != EventKind::kDeviceStateDone) continue;
        const std::lock_guard lock(mutex);
        ++done;
        changed.notify_all();
      }
      CHECK(channel.sending->submit_sync());
    });
    std::array<uint8_t, kThreads> next{};
    for (int i = 0; i < kThreads * kStates; ++i) {
      const ReceivedDeviceState state = channel.expect_state();
      const uint8_t id = state.bytes[0];
      CHECK_EQ(unsigned{state.bytes[1]}, unsigned{next[id]});
      const Bytes expected = pattern(size_t{next[id]++} * 500, id);
      CHECK_EQ(size_t{state.header.payload_bytes}, expected.size() + 2);
      CHECK(std::equal(expected.begin(), expected.end(), state.bytes.get() + 2));
    }
    channel.receive_wakeup.expect(*channel.receiving, EventKind::kSyncArrived);
    CHECK(channel.equal());
    for (std::thread& producer : producers) producer.join();
    source.join();
    channel.receiving->release_sync();
    channel.send_wakeup.expect(*channel.sending, EventKind::kSyncDone);
    channel.close();
  }
}

TEST("a channel destroyed in front of a stalled peer lets go of its states") {
  const CensusCheck before;
  for (const Way& way : kWays) {
    auto data = std::make_shared<const Bytes>(pattern(16 << 20, 1));
    const std::weak_ptr<const Bytes> held = data;
    {
      Channel channel(way);  // and nobody reads
      for (int i = 0; i < 2; ++i) {
        SendPayload payload = device_payload("dev", {}, data);
        CHECK(channel.sending->submit(payload));
      }
      data.reset();
      while (cell(channel.sent, SendCounter::kSentBytes) < 1 << 20) std::this_thread::yield();
      channel.sending->destroy();
      channel.send_wakeup.expect(*channel.sending, EventKind::kClosed);
      CHECK(!held.expired());
    }
    CHECK(held.expired());
  }
  before.expect_unchanged();
}

// Sends that come short, and must not be zero-copy.
ssize_t send_short(int fd, const msghdr* message, int flags) {
  CHECK_EQ(flags & MSG_ZEROCOPY, 0);
  iovec front = message->msg_iov[0];
  front.iov_len = std::min<size_t>(front.iov_len, 97);
  msghdr cut{};
  cut.msg_iov = &front;
  cut.msg_iovlen = 1;
  return ::syscall(SYS_sendmsg, fd, &cut, flags);
}

TEST("a state goes out whole by sends that come short, plain also where zero-copy is on") {
  auto [ours, theirs] = unix_pair();
  Syscalls syscalls = kKernelSyscalls;
  syscalls.send_guest = send_short;
  WaterMarks marks{1 << 20, 1 << 20};
  const std::atomic<bool> stop{false};
  SendmsgEngine engine({.fd = ours.get(),
                        .zero_copy = true,
                        .water_marks = &marks,
                        .stop = &stop,
                        .syscalls = &syscalls});
  DeviceCounters counted;
  DeviceStateSender sender(engine, [&](const DeviceCounters& counters) { counted = counters; });
  const auto data = std::make_shared<const Bytes>(pattern(20'000, 1));
  const auto packet = DevicePacket::create("dev", 7, pattern(20, 9), *data, data);
  CHECK_OK(sender.send(*packet));
  Bytes arrived(packet->bytes());
  CHECK_EQ(recv(theirs.get(), arrived.data(), arrived.size(), MSG_WAITALL),
           static_cast<ssize_t>(arrived.size()));
  CHECK(std::equal(data->begin(), data->end(), arrived.end() - 20'000));
  CHECK_EQ(counted.bytes, arrived.size());
  CHECK_EQ(counted.packets, 1U);
}

}  // namespace
