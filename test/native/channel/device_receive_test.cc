// Tests of device-state packets at the receiving channel: nothing is waited for that is not coming,
// however the bytes are cut; one state is held at a time; what is wrong in a header is an error.
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <thread>

#include "channel_fixture.h"

namespace {

using namespace fixture;  // NOLINT
using Bytes = std::vector<uint8_t>;

Bytes pattern(size_t size, uint8_t first) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(first + i * 7);
  return bytes;
}

void append_state(Bytes& stream, std::string_view idstr, const Bytes& payload) {
  stream.resize(stream.size() + kDeviceHeaderSize);
  fill_device_header(std::span(stream).last<kDeviceHeaderSize>(), idstr, 7,
                     static_cast<uint32_t>(payload.size()));
  stream.insert(stream.end(), payload.begin(), payload.end());
}

void append_ram(Bytes& stream, const RamPacket& packet, uint8_t value = 0) {
  stream.resize(stream.size() + kRamHeaderSize);
  fill_ram_header(std::span(stream).last<kRamHeaderSize>(), packet);
  stream.resize(stream.size() + packet.normal.size() * kPageSize, value);
}

// A receiving channel in front of a socket that the test writes to.
class Receiving {
 public:
  Receiving() : memory_(make_memory(8 * kPageSize)) {
    auto group = ReceiveGroup::create(memory_);
    CHECK_OK(group);
    auto [ours, theirs] = unix_pair();
    socket_ = std::move(ours);
    const int room = 1 << 20;  // whatever a test writes fits
    setsockopt(socket_.get(), SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    auto channel = ReceiveChannel::start(
        std::move(theirs), {.channel_id = 0, .counters = cells.data()}, *group, wakeup_);
    CHECK_OK(channel);
    channel_ = std::move(*channel);
  }
  void feed(std::span<const uint8_t> bytes) const {
    CHECK_EQ(write(socket_.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }
  // The channel has read all of it: now it waits for more.
  void wait_until_read() const {
    for (int unread = 1; unread > 0; std::this_thread::yield()) {
      CHECK_EQ(ioctl(socket_.get(), SIOCOUTQ, &unread), 0);
    }
  }
  ReceivedDeviceState expect_state() {
    wakeup_.expect(*channel_, EventKind::kDeviceState);
    ReceivedDeviceState state;
    CHECK(channel_->take_device_state(state));
    return state;
  }
  void expect_state(std::string_view idstr, const Bytes& payload) {
    const ReceivedDeviceState state = expect_state();
    CHECK(state.header.idstr() == idstr);
    CHECK_EQ(state.header.instance_id, 7U);
    CHECK_EQ(size_t{state.header.payload_bytes}, payload.size());
    CHECK(std::equal(payload.begin(), payload.end(), state.bytes.get()));
  }
  void expect(EventKind kind) { wakeup_.expect(*channel_, kind); }
  void pass_sync() {
    expect(EventKind::kSyncArrived);
    channel_->release_sync();
  }
  void close() { socket_.reset(); }
  ReceiveChannel& channel() { return *channel_; }
  [[nodiscard]] bool page_is(uint64_t page, uint8_t value) const {
    const Bytes whole(kPageSize, value);
    return same_bytes(memory_->blocks()[0].host() + page * kPageSize, whole.data(), kPageSize);
  }
  ReceiveCells cells{};

 private:
  const std::shared_ptr<GuestMemory> memory_;
  UniqueFd socket_;
  TestWakeup wakeup_;
  std::unique_ptr<ReceiveChannel> channel_;
};

const std::array<uint64_t, 1> kPageOne = {1 * kPageSize};
const std::array<uint64_t, 1> kPageTwo = {2 * kPageSize};
const RamPacket kSyncPacket = {.flags = kFlagSync, .packet_num = 9, .block = {}, .normal = {},
                               .zero = {}};

// A packet and what has to happen when its last byte has come, and not one more.
struct Step {
  Bytes bytes;
  std::function<void(Receiving&)> then;
};

// Short states in a row (several lie in the room of one RAM header), pages between them, and states
// behind a SYNC and at the end.
std::vector<Step> steps() {
  std::vector<Step> list;
  const auto state = [&](std::string_view idstr, size_t size) {
    const Bytes payload = pattern(size, static_cast<uint8_t>(list.size()));
    Step step;
    append_state(step.bytes, idstr, payload);
    step.then = [=](Receiving& receiving) { receiving.expect_state(idstr, payload); };
    list.push_back(step);
  };
  const auto ram = [&](const RamPacket& packet, uint8_t value,
                       std::function<void(Receiving&)> then) {
    Step step;
    append_ram(step.bytes, packet, value);
    step.then = std::move(then);
    list.push_back(step);
  };
  const auto nothing = [](Receiving&) {};
  const auto pass_sync = [](Receiving& receiving) { receiving.pass_sync(); };
  state("a", 5);
  ram({.flags = 0, .packet_num = 0, .block = "pc.ram", .normal = kPageOne, .zero = {}}, 0x11,
      nothing);
  state("b", 1);
  state("c", 1);
  state("d", 1067);
  state("e", 1068);
  ram(kSyncPacket, 0, pass_sync);
  state("f", 2000);
  ram({.flags = 0, .packet_num = 1, .block = "pc.ram", .normal = kPageTwo, .zero = {}}, 0x22,
      nothing);
  ram(kSyncPacket, 0, pass_sync);
  state("g", 1);
  return list;
}

TEST("a device's state arrives with its last byte, though nothing follows") {
  Receiving receiving;
  for (const Step& step : steps()) {
    receiving.feed(step.bytes);
    step.then(receiving);
  }
  receiving.close();
  receiving.expect(EventKind::kPeerEnd);
  CHECK(receiving.page_is(1, 0x11) && receiving.page_is(2, 0x22));
  size_t bytes = kInitialPacketSize;
  double device_bytes = 0;
  for (const Step& step : steps()) {
    bytes += step.bytes.size();
    if (step.bytes[11] == 0x40) device_bytes += static_cast<double>(step.bytes.size());
  }
  CHECK_EQ(cell(receiving.cells, ReceiveCounter::kReceivedBytes), static_cast<double>(bytes));
  CHECK_EQ(cell(receiving.cells, ReceiveCounter::kDeviceStateBytes), device_bytes);
  CHECK_EQ(cell(receiving.cells, ReceiveCounter::kPackets), static_cast<double>(steps().size()));
  CHECK_EQ(cell(receiving.cells, ReceiveCounter::kNormalPages), 2.0);
}

TEST("a stream of all kinds of packets may come at once") {
  Receiving receiving;
  Bytes stream;
  for (const Step& step : steps()) {
    stream.insert(stream.end(), step.bytes.begin(), step.bytes.end());
  }
  receiving.feed(stream);
  receiving.close();
  for (const Step& step : steps()) step.then(receiving);
  receiving.expect(EventKind::kPeerEnd);
  CHECK(receiving.page_is(1, 0x11) && receiving.page_is(2, 0x22));
}

TEST("a stream of all kinds of packets may be cut at any byte") {
  const std::vector<Step> list = steps();
  for (size_t packet = 0; packet < list.size(); ++packet) {
    const Bytes& bytes = list[packet].bytes;
    // Inside a payload every 61st byte is enough: there are no fields.
    for (size_t cut = 1; cut < bytes.size(); cut += cut < 350 || cut + 5 > bytes.size() ? 1 : 61) {
      Receiving receiving;
      // Two packets in front, so that the front of this one is read together with another.
      const size_t first = packet < 2 ? 0 : packet - 2;
      for (size_t before = first; before < packet; ++before) {
        receiving.feed(list[before].bytes);
        if (before + 1 < packet) list[before].then(receiving);
      }
      receiving.feed(std::span(bytes).first(cut));
      if (packet > first) list[packet - 1].then(receiving);
      receiving.wait_until_read();
      receiving.feed(std::span(bytes).subspan(cut));
      list[packet].then(receiving);
    }
  }
}

TEST("a wrong field of a device's state fails the channel, and nothing is announced") {
  struct Case {
    size_t at;
    uint8_t value;
    ErrorCode code;
    const char* what;
  };
  const Case cases[] = {{11, 0x41, ErrorCode::kProtocol, "SYNC"},
                        {11, 0x44, ErrorCode::kUnsupported, "flags"},
                        {3, 0x45, ErrorCode::kProtocol, "magic"},
                        {12, 0, ErrorCode::kProtocol, "name"},
                        {267, 1, ErrorCode::kProtocol, "name"},
                        {272, 2, ErrorCode::kProtocol, "next_packet_size"},
                        {275, 0, ErrorCode::kProtocol, "next_packet_size"}};
  for (const Case& wrong : cases) {
    Receiving receiving;
    Bytes stream;
    append_state(stream, "vga", {1});
    stream[wrong.at] = wrong.value;
    receiving.feed(stream);
    receiving.expect(EventKind::kFailed);
    const Error& error = *receiving.channel().error();
    CHECK(error.code == wrong.code);
    if (std::strstr(error.detail, wrong.what) == nullptr) {
      check::fail(__FILE__, __LINE__, error.detail);
    }
    ReceivedDeviceState state;
    CHECK(!receiving.channel().take_device_state(state));
  }
}

TEST("a channel holds one state, and reads on when it was taken") {
  Receiving receiving;
  Bytes stream;
  append_state(stream, "a", pattern(64 << 10, 1));
  append_state(stream, "b", pattern(64 << 10, 2));
  receiving.feed(stream);
  receiving.expect(EventKind::kDeviceState);
  CHECK_EQ(cell(receiving.cells, ReceiveCounter::kDeviceStateBytes),
           static_cast<double>(stream.size() / 2));
  ReceivedDeviceState state;
  CHECK(receiving.channel().take_device_state(state));
  CHECK(state.header.idstr() == "a");
  receiving.expect_state("b", pattern(64 << 10, 2));
  CHECK(!receiving.channel().take_device_state(state));
}

TEST("a channel that is parked with a device's state is destroyed at once") {
  const CensusCheck before;
  for (const bool taken_late : {false, true}) {
    Receiving receiving;
    Bytes stream;
    append_state(stream, "vga", pattern(64 << 10, 1));
    receiving.feed(stream);
    receiving.expect(EventKind::kDeviceState);
    receiving.channel().destroy();
    ReceivedDeviceState state;
    if (taken_late) CHECK(!receiving.channel().take_device_state(state));
    receiving.expect(EventKind::kClosed);
    CHECK(!receiving.channel().error());
  }
  before.expect_unchanged();
}

}  // namespace
