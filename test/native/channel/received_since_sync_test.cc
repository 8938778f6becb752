// What a destination counts as received when its connection breaks: whole packets, and nothing of
// one that was torn, though that one left its bytes in memory.
#include <sys/ioctl.h>
#include <unistd.h>

#include <set>

#include "channel_fixture.h"
#include "fake_codec.h"

namespace {

using namespace fixture;  // NOLINT

constexpr uint64_t kPages = 200;
using Bytes = std::vector<uint8_t>;
using Pages = std::set<uint64_t>;

// A packet without compression; each of its pages is filled with `byte`.
void append(Bytes& stream, uint32_t flags, const Pages& normal, const Pages& zero, uint8_t byte) {
  std::vector<uint64_t> normal_offsets;
  std::vector<uint64_t> zero_offsets;
  for (const uint64_t page : normal) normal_offsets.push_back(page * kPageSize);
  for (const uint64_t page : zero) zero_offsets.push_back(page * kPageSize);
  std::array<uint8_t, kRamHeaderSize> header;
  fill_ram_header(header, {.flags = flags,
                           .packet_num = 0,
                           .block = normal.empty() && zero.empty() ? "" : "pc.ram",
                           .normal = normal_offsets,
                           .zero = zero_offsets});
  stream.insert(stream.end(), header.begin(), header.end());
  stream.resize(stream.size() + normal.size() * kPageSize, byte);
}

// The destination, which outlives its connections.
struct Destination {
  explicit Destination(bool file) : memory(make_memory(kPages * kPageSize, file)) {
    CHECK_OK(memory->empty());
    auto created = ReceiveGroup::create(memory);
    CHECK_OK(created);
    group = *created;
  }
  [[nodiscard]] Pages since_sync() const {
    Pages pages;
    for (uint64_t page = 0; page < kPages; ++page) {
      if (group->received_since_sync[0].test(page)) pages.insert(page);
    }
    return pages;
  }
  // A connection that carries `stream` and then ends; each SYNC is collected.
  void receive(const Bytes& stream) const {
    auto [ours, theirs] = unix_pair();
    const int room = 4 << 20;
    setsockopt(ours.get(), SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    CHECK_EQ(write(ours.get(), stream.data(), stream.size()),
             static_cast<ssize_t>(stream.size()));
    ours.reset();
    ReceiveCells cells{};
    TestWakeup wakeup;
    auto channel = ReceiveChannel::start(
        std::move(theirs), {.channel_id = 0, .counters = cells.data()}, group, wakeup);
    CHECK_OK(channel);
    for (Event event; (event = wakeup.next(**channel)).kind != EventKind::kClosed;) {
      if (event.kind != EventKind::kSyncArrived) continue;
      group->clear_received_since_sync();
      (*channel)->release_sync();
    }
    (*channel)->join();
  }
  [[nodiscard]] bool page_is(uint64_t page, uint8_t byte) const {
    Bytes content(kPageSize, byte);
    return same_bytes(memory->blocks()[0].host() + page * kPageSize, content.data(), kPageSize);
  }

  const std::shared_ptr<GuestMemory> memory;
  std::shared_ptr<ReceiveGroup> group;
};

TEST("pages and zero pages count once their packet is there, until they are cleared") {
  for (const bool file : {false, true}) {
    const Destination destination(file);
    Bytes stream;
    append(stream, 0, {1, 63, 64, 199}, {5}, 0x11);
    append(stream, 0, {}, {130}, 0);
    destination.receive(stream);
    CHECK((destination.since_sync() == Pages{1, 5, 63, 64, 130, 199}));
    CHECK(destination.page_is(199, 0x11));
    // Another connection adds to it; a SYNC collected begins anew.
    stream.clear();
    append(stream, 0, {2}, {}, 0x22);
    destination.receive(stream);
    CHECK((destination.since_sync() == Pages{1, 2, 5, 63, 64, 130, 199}));
    append(stream, kFlagSync, {}, {}, 0);
    append(stream, 0, {}, {63, 150}, 0);
    destination.receive(stream);
    CHECK((destination.since_sync() == Pages{63, 150}));
    CHECK(destination.page_is(63, 0));
  }
}

TEST("a torn packet counts for nothing, and a later zero page clears what it left") {
  for (const bool file : {false, true}) {
    for (const size_t missing : {size_t{1}, kPageSize, kPageSize + 100, 3 * kPageSize}) {
      const Destination destination(file);
      Bytes stream;
      append(stream, 0, {10}, {}, 0x33);
      append(stream, 0, {20, 21, 22}, {10, 30}, 0x44);
      stream.resize(stream.size() - missing);
      destination.receive(stream);
      CHECK((destination.since_sync() == Pages{10}));
      destination.group->clear_received_since_sync();
      stream.clear();
      append(stream, 0, {}, {20, 21, 22}, 0);
      destination.receive(stream);
      CHECK((destination.since_sync() == Pages{20, 21, 22}));
      for (const uint64_t page : {20, 21, 22}) CHECK(destination.page_is(page, 0));
    }
  }
}

TEST("a compressed packet counts when it was decoded, and not when it could not be") {
  const Destination destination(false);
  const auto source = make_memory(kPages * kPageSize);
  for (const bool broken : {false, true}) {
    destination.group->clear_received_since_sync();
    fake_codec::Encoder encoder;
    Bytes body(encoder.bytes_max());
    fill_page(source->blocks()[0].host(), 1234567);
    const iovec run{source->blocks()[0].host(), kPageSize};
    const auto encoded = encoder.encode(std::span(&run, 1), body);
    CHECK_OK(encoded);
    body.resize(*encoded);
    if (broken) body[0] = 0xFF;  // not the sequence number that is next
    const uint64_t normal[] = {7 * kPageSize};
    std::array<uint8_t, kRamHeaderSize> header;
    fill_ram_header(header, {.flags = fake_codec::kFlag,
                             .packet_num = 0,
                             .block = "pc.ram",
                             .normal = normal,
                             .zero = {},
                             .compressed_bytes = static_cast<uint32_t>(body.size())});
    auto [ours, theirs] = unix_pair();
    CHECK_EQ(write(ours.get(), header.data(), header.size()),
             static_cast<ssize_t>(header.size()));
    CHECK_EQ(write(ours.get(), body.data(), body.size()), static_cast<ssize_t>(body.size()));
    ours.reset();
    ReceiveCells cells{};
    TestWakeup wakeup;
    auto channel = ReceiveChannel::start(std::move(theirs),
                                         {.channel_id = 0,
                                          .decoder = std::make_unique<fake_codec::Decoder>(),
                                          .counters = cells.data()},
                                         destination.group, wakeup);
    CHECK_OK(channel);
    wakeup.expect(**channel, broken ? EventKind::kFailed : EventKind::kPeerEnd);
    wakeup.expect(**channel, EventKind::kClosed);
    (*channel)->join();
    CHECK((destination.since_sync() == (broken ? Pages{} : Pages{7})));
  }
}

TEST("a channel destroyed in the middle of a payload counts nothing of it") {
  for (const bool file : {false, true}) {
    const Destination destination(file);
    auto [ours, theirs] = unix_pair();
    Bytes stream;
    append(stream, 0, {1, 2}, {3}, 0x55);
    stream.resize(stream.size() - 100);
    CHECK_EQ(write(ours.get(), stream.data(), stream.size()),
             static_cast<ssize_t>(stream.size()));
    ReceiveCells cells{};
    TestWakeup wakeup;
    auto channel =
        ReceiveChannel::start(std::move(theirs), {.channel_id = 0, .counters = cells.data()},
                              destination.group, wakeup);
    CHECK_OK(channel);
    int unread = 1;  // the channel took all of it when the socket is empty
    while (unread > 0) CHECK_EQ(ioctl(ours.get(), TIOCOUTQ, &unread), 0);
    (*channel)->destroy();
    wakeup.expect(**channel, EventKind::kClosed);
    (*channel)->join();
    CHECK(destination.since_sync().empty());
    CHECK(destination.group->received[0].test(1));
  }
}

}  // namespace
