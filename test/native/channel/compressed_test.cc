// Tests of channels with a compression method, a fake one: what travels, what is refused, and that
// nothing but the packet's pages is written. The real methods are tested through the addon.
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "channel_fixture.h"
#include "fake_codec.h"

namespace {

using namespace fixture;  // NOLINT
using Bytes = std::vector<uint8_t>;

constexpr size_t kPages = 16;

std::unique_ptr<PayloadEncoder> fake_encoder() { return std::make_unique<fake_codec::Encoder>(); }
std::unique_ptr<PayloadDecoder> fake_decoder() { return std::make_unique<fake_codec::Decoder>(); }

Bytes packet(const RamPacket& fields, const Bytes& payload) {
  Bytes bytes(kRamHeaderSize);
  RamPacket whole = fields;
  whole.compressed_bytes = static_cast<uint32_t>(payload.size());
  fill_ram_header(std::span<uint8_t, kRamHeaderSize>(bytes), whole);
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  return bytes;
}

struct Outcome {
  bool peer_ended = false;
  std::optional<Error> error;
};

// The whole stream at once; it fits into the socket.
Outcome receive(const std::shared_ptr<GuestMemory>& memory, const Bytes& stream) {
  auto group = ReceiveGroup::create(memory);
  CHECK_OK(group);
  auto [ours, theirs] = unix_pair();
  CHECK_EQ(write(ours.get(), stream.data(), stream.size()), static_cast<ssize_t>(stream.size()));
  ours.reset();
  ReceiveCells cells{};
  TestWakeup wakeup;
  auto channel = ReceiveChannel::start(
      std::move(theirs),
      {.channel_id = 0, .decoder = fake_decoder(), .counters = cells.data()}, *group, wakeup);
  CHECK_OK(channel);
  Outcome outcome;
  for (Event event; (event = wakeup.next(**channel)).kind != EventKind::kClosed;) {
    outcome.peer_ended |= event.kind == EventKind::kPeerEnd;
    if (event.kind == EventKind::kFailed) outcome.error = (*channel)->error();
    if (event.kind == EventKind::kSyncArrived) (*channel)->release_sync();
  }
  (*channel)->join();
  return outcome;
}

bool page_is(const std::shared_ptr<GuestMemory>& memory, uint64_t page, uint8_t value) {
  const uint8_t* const at = memory->blocks()[0].host() + page * kPageSize;
  return std::all_of(at, at + kPageSize, [value](uint8_t byte) { return byte == value; });
}

const std::array<uint64_t, 2> kTwo = {3 * kPageSize, 1 * kPageSize};
const Bytes kTwoUniform = {0, 1, 0xAA, 1, 0xBB};  // packet 0: pages of AA and of BB

TEST("compressed pages land where the packet says, in memory and in a file") {
  for (const bool memfd : {false, true}) {
    const auto memory = make_memory(kPages * kPageSize, memfd);
    Bytes stream = packet({.flags = fake_codec::kFlag | kFlagSync, .packet_num = 0,
                           .block = "pc.ram", .normal = kTwo, .zero = {}}, kTwoUniform);
    const std::array<uint64_t, 1> zero = {kTwo[0]};
    const Bytes empty = packet({.flags = fake_codec::kFlag, .packet_num = 1, .block = "pc.ram",
                                .normal = {}, .zero = zero}, {});
    const Bytes sync =
        packet({.flags = kFlagSync, .packet_num = 2, .block = {}, .normal = {}, .zero = {}}, {});
    stream.insert(stream.end(), empty.begin(), empty.end());
    stream.insert(stream.end(), sync.begin(), sync.end());
    const Outcome outcome = receive(memory, stream);
    if (outcome.error) check::fail(__FILE__, __LINE__, outcome.error->detail);
    CHECK(outcome.peer_ended);
    CHECK(page_is(memory, 1, 0xBB));
    for (uint64_t page = 0; page < kPages; ++page) CHECK(page == 1 || page_is(memory, page, 0));
  }
}

TEST("what the decoder refuses fails the channel, and other pages stay as they were") {
  const Bytes payloads[] = {{1, 1, 0xAA, 1, 0xBB},           // not the first of its stream
                            {0, 1, 0xAA, 1},                 // too short
                            {0, 1, 0xAA},                    // a page is missing
                            {0, 1, 0xAA, 1, 0xBB, 1, 0xCC}};  // a page too many
  for (const Bytes& payload : payloads) {
    const auto memory = make_memory(kPages * kPageSize);
    const Outcome outcome = receive(memory, packet({.flags = fake_codec::kFlag, .packet_num = 0,
                                                    .block = "pc.ram", .normal = kTwo,
                                                    .zero = {}}, payload));
    CHECK(outcome.error.has_value());
    CHECK(outcome.error->code == ErrorCode::kProtocol);
    CHECK(!outcome.peer_ended);
    for (uint64_t page = 0; page < kPages; ++page) {
      CHECK(page == 1 || page == 3 || page_is(memory, page, 0));
    }
  }
}

TEST("a size beyond the bound, none at all, and the wrong method are refused unread") {
  struct Case {
    uint32_t flags;
    uint32_t bytes;
    ErrorCode code;
    const char* part;
  };
  constexpr uint32_t kTooMuch = kPayloadBytesMax + 1;
  const Case cases[] = {
      {fake_codec::kFlag, kTooMuch, ErrorCode::kProtocol, "next_packet_size 1048577"},
      {fake_codec::kFlag, ~0U, ErrorCode::kProtocol, "next_packet_size 4294967295"},
      {fake_codec::kFlag, 0, ErrorCode::kProtocol, "next_packet_size 0"},
      {0, 0, ErrorCode::kProtocol, "multifd-compression"},
      {0x02, 5, ErrorCode::kUnsupported, "multifd-compression"},
      {fake_codec::kFlag | 0x80, 5, ErrorCode::kUnsupported, "multifd-compression"},
      {fake_codec::kFlag | 0x40, 5, ErrorCode::kUnsupported, "expected 0x40 alone"},
  };
  for (const Case& wrong : cases) {
    const auto memory = make_memory(kPages * kPageSize);
    Bytes stream(kRamHeaderSize);
    fill_ram_header(std::span<uint8_t, kRamHeaderSize>(stream),
                    {.flags = wrong.flags, .packet_num = 0, .block = "pc.ram", .normal = kTwo,
                     .zero = {}, .compressed_bytes = wrong.bytes});
    const Outcome outcome = receive(memory, stream);
    CHECK(outcome.error.has_value());
    if (std::strstr(outcome.error->detail, wrong.part) == nullptr) {
      check::fail(__FILE__, __LINE__, outcome.error->detail);
    }
    CHECK(outcome.error->code == wrong.code);
  }
}

TEST("a payload that is cut off is the peer's end in the middle of a packet") {
  const Bytes whole = packet({.flags = fake_codec::kFlag, .packet_num = 0, .block = "pc.ram",
                              .normal = kTwo, .zero = {}}, kTwoUniform);
  for (size_t size = kRamHeaderSize; size <= whole.size(); ++size) {
    const auto memory = make_memory(kPages * kPageSize);
    const Bytes cut(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size));
    const Outcome outcome = receive(memory, cut);
    CHECK_EQ(outcome.peer_ended, size == whole.size());
    if (outcome.error) CHECK(outcome.error->code == ErrorCode::kPeerClosed);
    CHECK_EQ(page_is(memory, 3, 0xAA), size == whole.size());
  }
}

TEST("memory whose file has no room for a page is an error, not a signal") {
  const auto memory = make_memory(kPages * kPageSize, true);
  // As on a full file system: a store to the mapping would raise SIGBUS.
  CHECK_EQ(ftruncate(memory->blocks()[0].mapping->fd(), 0), 0);
  const Outcome outcome = receive(memory, packet({.flags = fake_codec::kFlag, .packet_num = 0,
                                                  .block = "pc.ram", .normal = kTwo,
                                                  .zero = {}}, kTwoUniform));
  CHECK(outcome.error.has_value());
  CHECK_EQ(outcome.error->errno_value, EFAULT);
  CHECK(std::strstr(outcome.error->detail, "file system") != nullptr);
}

// From one memory to another, by one channel, by either engine and with hashed copies.
void migrate(EngineKind engine, TrackerKind tracker) {
  constexpr size_t kSize = 4 << 20;
  const PlainListener listener;
  const auto source = make_memory(kSize);
  const auto destination = make_memory(kSize);
  uint8_t* const pages = source->blocks()[0].host();
  for (uint64_t page = 0; page < kSize / kPageSize; page += 1 + page % 3) {
    uint8_t* const at = pages + page * kPageSize;
    if (page % 2 == 0) std::fill_n(at, kPageSize, static_cast<uint8_t>(page % 255 + 1));
    if (page % 2 == 1) fill_page(at, page);
  }
  auto ram = RamState::create(source, make_tracker(tracker, source).tracker);
  CHECK_OK(ram);
  CHECK_OK((*ram)->start());
  CHECK_OK((*ram)->begin_round());
  SendCells sent{};
  ReceiveCells received{};
  TestWakeup send_wakeup;
  TestWakeup receive_wakeup;
  auto sending = SendChannel::start({.endpoint = listener.endpoint(),
                                     .initial = {},
                                     .engine = engine,
                                     .zero_copy = true,
                                     .high_water_bytes = 4 << 20,
                                     .low_water_bytes = 1 << 20,
                                     .encoder = fake_encoder(),
                                     .counters = sent.data()},
                                    std::make_shared<SendGroup>(*ram), send_wakeup);
  CHECK_OK(sending);
  InitialPacket initial;
  UniqueFd fd = listener.accept_channel(initial);
  auto group = ReceiveGroup::create(destination);
  CHECK_OK(group);
  auto receiving = ReceiveChannel::start(
      std::move(fd),
      {.channel_id = 0, .decoder = fake_decoder(), .counters = received.data()}, *group,
      receive_wakeup);
  CHECK_OK(receiving);
  send_wakeup.expect(**sending, EventKind::kReady);
  CHECK((*sending)->engine_report().mode() == SendMode::kPlain);
  for (const Extent& extent : (*ram)->plan(kSize)) CHECK((*sending)->submit_extent(extent));
  CHECK((*sending)->submit_sync());
  CHECK((*sending)->submit_close());
  receive_wakeup.expect(**receiving, EventKind::kSyncArrived);
  CHECK(same_bytes(pages, destination->blocks()[0].host(), kSize));
  (*receiving)->release_sync();
  while (send_wakeup.next(**sending).kind != EventKind::kClosed) continue;
  CHECK(!(*sending)->error());
  (*sending)->join();  // closes the socket
  receive_wakeup.expect(**receiving, EventKind::kPeerEnd);
  receive_wakeup.expect(**receiving, EventKind::kClosed);
  const double raw = cell(sent, SendCounter::kNormalPages) * static_cast<double>(kPageSize);
  CHECK(raw > 0 && cell(sent, SendCounter::kSentBytes) < raw);
  CHECK_EQ(cell(sent, SendCounter::kSentBytes), cell(received, ReceiveCounter::kReceivedBytes));
}

TEST("a round travels compressed, plain even where zero-copy was asked for") {
  migrate(EngineKind::kSendmsg, TrackerKind::kVmm);
}

TEST("a round travels compressed through io_uring") {
  migrate(EngineKind::kIoUring, TrackerKind::kVmm);
}

TEST("hashed copies are compressed") { migrate(EngineKind::kSendmsg, TrackerKind::kHash); }

}  // namespace
