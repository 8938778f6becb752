// Tests of a relay's threads between pairs of sockets: what goes in comes out once, between the
// same sync points, whatever the numbers of channels; a destination that does not read holds the
// source; and bad packets end a channel instead of reaching the destination.
#include "relay_fixture.h"

namespace {

using namespace relay_fixture;  // NOLINT

// Every page once per epoch, on a channel and in a packet of its own luck; about a third is zero.
std::vector<Epoch> write_epochs(std::vector<Writer>& writers, size_t epochs,
                                check::Random& random) {
  std::vector<Epoch> all(1);  // nothing before the setup SYNC
  for (Writer& writer : writers) writer.sync();
  for (size_t epoch = 1; epoch <= epochs; ++epoch) {
    Epoch& pages = all.emplace_back();
    const uint64_t kept = kPages - writers.size();  // one page of each channel goes last
    uint64_t page = 0;
    while (page < kept) {
      Writer& writer = writers[random.below(writers.size())];
      std::vector<uint64_t> offsets, values, zeros;
      for (uint64_t left = 1 + random.below(kPacketPagesMax); left > 0 && page < kept; --left) {
        const uint64_t value = random.below(3) == 0 ? 0 : epoch << 32 | (page + 1) << 12;
        (value == 0 ? zeros : offsets).push_back(page * kPageSize);
        if (value != 0) values.push_back(value);
        pages[page++] = value == 0 ? std::nullopt : std::optional(value);
      }
      writer.packet(offsets, values, zeros);
      if (random.below(4) == 0) writer.empty();
    }
    for (Writer& writer : writers) {
      const uint64_t value = epoch << 32 | (page + 1) << 12;
      const bool rides = random.below(2) == 0;  // as QEMU 7.2's SYNC does on its last pages
      writer.packet({page * kPageSize}, {value}, {}, rides ? kFlagSync : 0);
      if (!rides) writer.sync();
      pages[page++] = value;
    }
  }
  return all;
}

// What each sync point of the ports encloses.
std::vector<Epoch> read_epochs(const Relay& relay) {
  std::vector<Epoch> all;
  std::map<uint64_t, int> numbers;
  for (const auto& reader : relay.readers) {
    size_t epoch = 0;
    for (const Packet& packet : reader->packets) {
      CHECK_EQ(++numbers[packet.header.packet_num], 1);
      if (all.size() <= epoch) all.resize(epoch + 1);
      const RamHeader& header = packet.header;
      for (uint32_t i = 0; i < header.pages(); ++i) {
        const uint64_t page = header.offsets[i] / kPageSize;
        CHECK(!all[epoch].contains(page));
        all[epoch][page] =
            i < header.normal_pages ? std::optional(packet.values[i]) : std::nullopt;
      }
      if (header.flags & kFlagSync) {
        CHECK_EQ(header.pages(), 0U);  // never pages in a SYNC, whatever the source did
        ++epoch;
      } else {
        CHECK(header.pages() > 0);  // packets without anything are not passed on
      }
    }
  }
  CHECK_EQ(numbers.size(), numbers.empty() ? 0 : numbers.rbegin()->first + 1);
  return all;
}

void relay_epochs(const Relay::Setup& setup) {
  constexpr size_t kEpochs = 4;
  const CensusCheck before;
  {
    check::Random random(check::seed());
    Relay relay(setup);
    std::vector<Writer> writers;
    for (size_t i = 0; i < setup.channels; ++i) writers.emplace_back(setup.compressed_in);
    const std::vector<Epoch> sent = write_epochs(writers, kEpochs, random);
    for (size_t i = 0; i < setup.channels; ++i) relay.feed(i, writers[i].bytes, true);
    for (size_t point = 0; point <= kEpochs; ++point) relay.pass_sync_point();
    for (size_t i = 0; i < setup.channels; ++i) {
      relay.expect(i, EventKind::kPeerEnd);
      relay.expect(i, EventKind::kClosed);
      CHECK_EQ(relay.received(i, ReceiveCounter::kReceivedBytes),
               static_cast<double>(kInitialPacketSize + writers[i].bytes.size()));
    }
    relay.end();
    const std::vector<Epoch> got = read_epochs(relay);
    CHECK_EQ(got.size(), sent.size());
    for (size_t epoch = 0; epoch < sent.size(); ++epoch) CHECK(got[epoch] == sent[epoch]);
    for (size_t port = 0; port < setup.ports; ++port) {
      CHECK_EQ(relay.sent(port, RelayPortCounter::kSyncs), static_cast<double>(kEpochs + 1));
    }
  }
  before.expect_unchanged();
}

const bool matrix_added = [] {
  for (const size_t channels : {1, 2, 4}) {
    for (const size_t ports : {1, 2, 3}) {
      for (const int compressed : {0, 1, 2, 3}) {
        const Relay::Setup setup{.channels = channels, .ports = ports,
                                 .compressed_in = (compressed & 1) != 0,
                                 .compressed_out = (compressed & 2) != 0};
        check::add("every page goes through once, between its sync points: " +
                       std::to_string(channels) + (setup.compressed_in ? " compressed" : "") +
                       " to " + std::to_string(ports) +
                       (setup.compressed_out ? " compressed" : ""),
                   [setup] { relay_epochs(setup); });
      }
    }
  }
  return true;
}();

TEST("a SYNC that rides on pages goes out behind them, as a packet of its own") {
  Relay relay({.channels = 1, .ports = 1});
  Writer writer(false);
  writer.sync();
  writer.packet({4096}, {1 << 20}, {}, kFlagSync);
  writer.empty();
  relay.feed(0, writer.bytes, true);
  relay.pass_sync_point();
  relay.pass_sync_point();
  relay.expect(0, EventKind::kPeerEnd);
  relay.end();
  const std::vector<Packet>& packets = relay.readers[0]->packets;
  CHECK_EQ(packets.size(), 3U);
  CHECK_EQ(packets[1].header.pages(), 1U);
  CHECK_EQ(packets[1].header.flags, 0U);
  CHECK_EQ(packets[2].header.flags, kFlagSync);
}

TEST("nothing behind a SYNC is passed on before it is released") {
  Relay relay({.channels = 2, .ports = 1});
  Writer early(false);
  early.sync();
  early.packet({0}, {1 << 20}, {});
  early.sync();
  Writer late(false);
  late.sync();
  late.sync();
  relay.feed(0, early.bytes, false);
  relay.expect(0, EventKind::kSyncArrived);
  CHECK_EQ(relay.received(0, ReceiveCounter::kPackets), 1.0);
  CHECK_EQ(relay.sent(0, RelayPortCounter::kPackets), 0.0);
  relay.feed(1, late.bytes, false);
  relay.expect(1, EventKind::kSyncArrived);
  CHECK_OK(relay.ports->sync_out());
  relay.channel(0).release_sync();
  relay.channel(1).release_sync();
  relay.pass_sync_point();
  relay.end();
  CHECK_EQ(relay.readers[0]->packets.size(), 3U);
}

// Bytes a sender gets rid of while the relay's destination does not read: what sockets hold, and a
// packet per channel. The socket's own buffers are 208 KiB each by default.
TEST("a destination that does not read holds the source, and memory stays bounded") {
  const CensusCheck before;
  {
    Relay relay({.channels = 2, .ports = 1, .ports_are_read = false});
    Writer writer(false);
    writer.sync();
    std::vector<uint64_t> offsets, values;
    for (uint64_t page = 0; page < kPacketPagesMax; ++page) {
      offsets.push_back(page * kPageSize);
      values.push_back((page + 1) << 12);
    }
    for (int i = 0; i < 64; ++i) writer.packet(offsets, values, {});  // 32 MiB
    relay.feed(0, writer.bytes, false);
    relay.feed(1, writer.bytes, false);
    relay.expect(0, EventKind::kSyncArrived);
    relay.expect(1, EventKind::kSyncArrived);
    relay.channel(0).release_sync();
    relay.channel(1).release_sync();
    while (relay.ports->writers() < 2) std::this_thread::yield();
    // Both have one packet in hand, and nothing moves any more.
    const double held = relay.received(0, ReceiveCounter::kNormalPages) +
                        relay.received(1, ReceiveCounter::kNormalPages);
    CHECK(held <= 4.0 * kPacketPagesMax);
    relay.channel(0).destroy();  // ends both: a relay ends as a whole
    for (size_t i = 0; i < 2; ++i) {
      Event event;
      do {
        event = relay.next(i);
        if (i == 0) CHECK(event.kind != EventKind::kFailed);
        if (i == 1 && event.kind == EventKind::kFailed) relay.channel(1).destroy();
      } while (event.kind != EventKind::kClosed);
    }
  }
  before.expect_unchanged();
}

TEST("a destination that is gone fails the channel that sends to it") {
  const CensusCheck before;
  {
    Relay relay({.channels = 1, .ports = 1, .ports_are_read = false});
    relay.readers.clear();
    Writer writer(false);
    writer.sync();
    writer.packet({0}, {1 << 20}, {});
    relay.feed(0, writer.bytes, false);
    relay.expect(0, EventKind::kSyncArrived);
    relay.channel(0).release_sync();
    relay.expect(0, EventKind::kFailed);
    CHECK(relay.channel(0).error()->code == ErrorCode::kPeerClosed);
    CHECK(!relay.ports->sync_out());
  }
  before.expect_unchanged();
}

// Feeds one channel bytes; its error, and that nothing but `passed` packets reached the port.
void expect_refused(const std::vector<uint8_t>& bytes, ErrorCode code, const char* what,
                    bool after_sync = true, bool close = false) {
  Relay relay({.channels = 1, .ports = 1});
  relay.feed(0, bytes, close);
  if (after_sync) relay.pass_sync_point();
  relay.expect(0, EventKind::kFailed);
  const Error& error = *relay.channel(0).error();
  if (error.code != code || std::strstr(error.detail, what) == nullptr) {
    check::fail(__FILE__, __LINE__, error.detail);
  }
  relay.end();
  CHECK_EQ(relay.readers[0]->packets.size(), after_sync ? 1U : 0U);
}

TEST("bad packets end the channel, and reach no destination") {
  struct Case {
    const char* what;
    ErrorCode code;
    void (*change)(uint8_t* header);
  };
  const Case cases[] = {
      {"magic", ErrorCode::kProtocol, [](uint8_t* header) { header[0] = 0x12; }},
      {"version", ErrorCode::kProtocol, [](uint8_t* header) { header[7] = 2; }},
      {"flags", ErrorCode::kUnsupported, [](uint8_t* header) { header[11] = 0x80; }},
      {"device state with a name", ErrorCode::kProtocol,
       [](uint8_t* header) { header[11] = 0x40; }},
      {"flags", ErrorCode::kUnsupported, [](uint8_t* header) { header[11] = 0x02; }},
      {"pages_alloc", ErrorCode::kProtocol, [](uint8_t* header) { header[14] = 1; }},
      {"normal", ErrorCode::kProtocol, [](uint8_t* header) { header[19] = 129; }},
      {"zero pages", ErrorCode::kProtocol, [](uint8_t* header) { header[32] = 1; }},
      {"next_packet_size", ErrorCode::kProtocol, [](uint8_t* header) { header[20] = 1; }},
      {"RAM block", ErrorCode::kProtocol, [](uint8_t* header) { header[64] = 'P'; }},
      {"without a name", ErrorCode::kProtocol, [](uint8_t* header) { header[64] = 0; }},
      {"offset", ErrorCode::kProtocol, [](uint8_t* header) { header[327] = 1; }},
      {"offset", ErrorCode::kProtocol, [](uint8_t* header) { header[320] = 0x80; }},
  };
  const CensusCheck before;
  for (const Case& wrong : cases) {
    Writer writer(false);
    writer.sync();
    writer.packet({4096}, {1 << 20}, {8192});
    wrong.change(&writer.bytes[kRamHeaderSize]);
    expect_refused(writer.bytes, wrong.code, wrong.what);
  }
  before.expect_unchanged();
}

TEST("pages before the setup SYNC, which end a QEMU with SIGSEGV, are not passed on") {
  Writer writer(false);
  writer.packet({4096}, {1 << 20}, {});
  expect_refused(writer.bytes, ErrorCode::kProtocol, "before the first SYNC", false);
}

TEST("the state of a device is refused by its name, however short it is") {
  Writer writer(false);
  writer.sync();
  writer.bytes.resize(writer.bytes.size() + kDeviceHeaderSize);
  fill_device_header(std::span(writer.bytes).last<kDeviceHeaderSize>(), "0000:00:02.0/vfio", 3, 1);
  expect_refused(writer.bytes, ErrorCode::kUnsupported, "\"0000:00:02.0/vfio\" (instance 3)");
}

TEST("a channel that ends inside a packet is an error") {
  Writer writer(false);
  writer.sync();
  writer.packet({4096}, {1 << 20}, {});
  writer.bytes.resize(writer.bytes.size() - 1);
  expect_refused(writer.bytes, ErrorCode::kPeerClosed, "middle of a packet", true, true);
}

TEST("random changes of a good stream end in an error or in order, and leave nothing") {
  const CensusCheck before;
  check::Random random(check::seed());
  for (int i = 0; i < 300; ++i) {
    Writer writer(false);
    writer.sync();
    writer.packet({4096, 8192}, {1 << 20, 2 << 20}, {0});
    writer.sync();
    for (uint64_t change = 1 + random.below(3); change > 0; --change) {
      writer.bytes[random.below(400) + random.below(2) * kRamHeaderSize] =
          static_cast<uint8_t>(random.next());
    }
    Relay relay({.channels = 1, .ports = 1});
    relay.feed(0, writer.bytes, true);
    size_t ends = 0;
    for (Event event; (event = relay.next(0)).kind != EventKind::kClosed;) {
      if (event.kind == EventKind::kSyncArrived) {
        CHECK_OK(relay.ports->sync_out());
        relay.channel(0).release_sync();
      } else {
        ++ends;
      }
    }
    CHECK_EQ(ends, 1U);
    relay.end();
  }
  before.expect_unchanged();
}

TEST("a parked channel and an idle one are destroyed at once, and their ports stop") {
  const CensusCheck before;
  {
    Relay relay({.channels = 2, .ports = 2});
    Writer writer(false);
    writer.sync();
    relay.feed(0, writer.bytes, false);
    relay.expect(0, EventKind::kSyncArrived);
    for (size_t i = 0; i < 2; ++i) {
      relay.channel(i).destroy();
      relay.channel(i).destroy();
      relay.expect(i, EventKind::kClosed);
    }
    CHECK(!relay.ports->sync_out());
    CHECK(!relay.ports->connect());
  }
  before.expect_unchanged();
}

TEST("ports connect in order, each introduced with the guest's UUID") {
  const CensusCheck before;
  {
    const PlainListener listener;
    std::array<CounterCell, 3 * static_cast<size_t>(RelayPortCounter::kCount)> cells{};
    RelayPortsOptions options;
    options.endpoint = listener.endpoint();
    options.counters = cells.data();
    options.uuid.fill(0xAB);
    std::vector<std::unique_ptr<PayloadEncoder>> encoders(3);
    auto ports = RelayPorts::create(std::move(options), std::move(encoders));
    CHECK_OK(ports);
    CHECK_OK((*ports)->connect());
    for (uint8_t id = 0; id < 3; ++id) {
      InitialPacket initial;
      const UniqueFd fd = listener.accept_channel(initial);
      CHECK_EQ(unsigned{initial.channel_id}, unsigned{id});
      CHECK_EQ(unsigned{initial.uuid[15]}, 0xABU);
    }
  }
  before.expect_unchanged();
}

}  // namespace
