// Tests of the sending channel alone, in front of a peer that is played here: one that stalls, one
// that reads late, one that is not there.
#include <sys/socket.h>

#include <thread>

#include "channel_fixture.h"

namespace {

using namespace fixture;  // NOLINT

// A source in front of a peer that took the connection and never reads.
void stall(bool zero_copy, TrackerKind kind, EngineKind engine = EngineKind::kSendmsg) {
  const CensusCheck before;
  {
    const PlainListener listener;
    const auto memory = make_memory(32 << 20);
    const uint64_t pages = memory->blocks()[0].page_count();
    for (uint64_t page = 0; page < pages; ++page) {
      fill_page(memory->blocks()[0].host() + page * kPageSize, page + 1);
    }
    auto ram = RamState::create(memory, make_tracker(kind, memory).tracker);
    CHECK_OK(ram);
    CHECK_OK((*ram)->start());
    CHECK_OK((*ram)->begin_round());
    SendCells cells{};
    TestWakeup wakeup;
    auto channel = SendChannel::start({.endpoint = listener.endpoint(),
                                       .initial = {},
                                       .engine = engine,
                                       .zero_copy = zero_copy,
                                       .high_water_bytes = 16 << 20,
                                       .low_water_bytes = 8 << 20,
                                       .counters = cells.data()},
                                      std::make_shared<SendGroup>(*ram), wakeup);
    CHECK_OK(channel);
    InitialPacket initial;
    const UniqueFd peer = listener.accept_channel(initial);
    wakeup.expect(**channel, EventKind::kReady);
    for (const Extent& extent : (*ram)->plan(32 << 20)) CHECK((*channel)->submit_extent(extent));
    // Less than the buffers of a loopback connection take from us while nobody reads.
    while (cell(cells, SendCounter::kSentBytes) < (512 << 10)) std::this_thread::yield();
    (*channel)->destroy();
    wakeup.expect(**channel, EventKind::kClosed);
    (*channel)->join();
    CHECK(!(*channel)->error());
  }
  before.expect_unchanged();
}

TEST("a channel destroyed in front of a stalled peer ends, with everything released: copied") {
  stall(false, TrackerKind::kVmm);
}

TEST("a channel destroyed in front of a stalled peer ends, with everything released: zero-copy") {
  stall(true, TrackerKind::kVmm);
}

TEST("a channel destroyed in front of a stalled peer ends, with everything released: splice") {
  stall(true, TrackerKind::kVmm, EngineKind::kSplice);
}

TEST("a channel destroyed in front of a stalled peer ends, with everything released: io_uring") {
  if (const auto found = probe_io_uring(); !found.usage_report) {
    SKIP(std::string(found.usage_report.reason));
  }
  stall(false, TrackerKind::kVmm, EngineKind::kIoUring);
  stall(true, TrackerKind::kVmm, EngineKind::kIoUring);
}

// A channel over a UNIX pair, where no zero-copy is to be had, up to its READY or its failure.
TEST("where the socket has no zero-copy the channel goes plain, or fails if it must not") {
  const std::string path = "/tmp/multifd-send-channel-" + std::to_string(::getpid());
  const auto endpoint = Endpoint::unix_path(path);
  CHECK_OK(endpoint);
  uint16_t port = 0;
  const auto listening = listen_on(*endpoint, port);
  CHECK_OK(listening);
  for (const bool required : {false, true}) {
    const auto memory = make_memory(1 << 20);
    auto ram = RamState::create(memory, make_tracker(TrackerKind::kVmm, memory).tracker);
    CHECK_OK(ram);
    SendCells cells{};
    TestWakeup wakeup;
    auto channel = SendChannel::start({.endpoint = *endpoint,
                                       .initial = {},
                                       .zero_copy = true,
                                       .zero_copy_required = required,
                                       .high_water_bytes = 4 << 20,
                                       .low_water_bytes = 1 << 20,
                                       .counters = cells.data()},
                                      std::make_shared<SendGroup>(*ram), wakeup);
    CHECK_OK(channel);
    if (required) {
      wakeup.expect(**channel, EventKind::kFailed);
      CHECK((*channel)->error()->code == ErrorCode::kUnsupported);
    } else {
      wakeup.expect(**channel, EventKind::kReady);
      CHECK((*channel)->engine_report().mode() == SendMode::kPlain);
      CHECK_EQ((*channel)->engine_report().steps().size(), 1U);
    }
  }
  ::unlink(path.c_str());
}

TEST("hashed copies are not overwritten while a stalled connection still holds them") {
  // The peer reads only when everything that fits into the sockets was sent: what it reads then
  // was queued by the kernel for a while.
  const PlainListener listener;
  const auto memory = make_memory(8 << 20);
  const RamBlock& block = memory->blocks()[0];
  for (uint64_t page = 0; page < block.page_count(); ++page) {
    fill_page(block.host() + page * kPageSize, (page + 1) << 20);
  }
  auto ram = RamState::create(memory, make_tracker(TrackerKind::kHash, memory).tracker);
  CHECK_OK(ram);
  CHECK_OK((*ram)->start());
  CHECK_OK((*ram)->begin_round());
  SendCells cells{};
  TestWakeup wakeup;
  auto channel = SendChannel::start({.endpoint = listener.endpoint(),
                                     .initial = {},
                                     .zero_copy = true,
                                     .high_water_bytes = 64 << 20,
                                     .low_water_bytes = 0,
                                     .counters = cells.data()},
                                    std::make_shared<SendGroup>(*ram), wakeup);
  CHECK_OK(channel);
  InitialPacket initial;
  const UniqueFd peer = listener.accept_channel(initial);
  wakeup.expect(**channel, EventKind::kReady);
  for (const Extent& extent : (*ram)->plan(32 << 20)) CHECK((*channel)->submit_extent(extent));
  // Less than the buffers of a loopback connection take from us while nobody reads.
    while (cell(cells, SendCounter::kSentBytes) < (512 << 10)) std::this_thread::yield();
  RamHeader header;
  std::array<uint8_t, kRamHeaderSize> header_bytes;
  std::vector<uint8_t> page_bytes(kPageSize);
  for (uint64_t seen = 0; seen < block.page_count();) {
    CHECK_EQ(recv(peer.get(), header_bytes.data(), header_bytes.size(), MSG_WAITALL),
             static_cast<ssize_t>(header_bytes.size()));
    CHECK_OK(parse_ram_header(header_bytes, header));
    for (uint32_t i = 0; i < header.normal_pages; ++i, ++seen) {
      CHECK_EQ(recv(peer.get(), page_bytes.data(), page_bytes.size(), MSG_WAITALL),
               static_cast<ssize_t>(page_bytes.size()));
      CHECK(page_holds(page_bytes.data(), (header.offsets[i] / kPageSize + 1) << 20));
    }
  }
}

TEST("a connection that is refused fails the channel with a sentence that names the address") {
  Endpoint nobody;
  {
    const PlainListener listener;
    nobody = listener.endpoint();
  }
  const auto memory = make_memory(1 << 20);
  auto ram = RamState::create(memory, make_tracker(TrackerKind::kVmm, memory).tracker);
  CHECK_OK(ram);
  SendCells cells{};
  TestWakeup wakeup;
  auto channel =
      SendChannel::start({.endpoint = nobody, .initial = {}, .counters = cells.data()},
                         std::make_shared<SendGroup>(*ram), wakeup);
  CHECK_OK(channel);
  wakeup.expect(**channel, EventKind::kFailed);
  CHECK(std::string((*channel)->error()->detail).find(nobody.text) != std::string::npos);
  wakeup.expect(**channel, EventKind::kClosed);
}

TEST("more commands than there are credits for are refused") {
  const PlainListener listener;
  const auto memory = make_memory(1 << 20);
  auto ram = RamState::create(memory, make_tracker(TrackerKind::kVmm, memory).tracker);
  CHECK_OK(ram);
  SendCells cells{};
  TestWakeup wakeup;
  auto channel = SendChannel::start(
      {.endpoint = listener.endpoint(), .initial = {}, .counters = cells.data()},
      std::make_shared<SendGroup>(*ram), wakeup);
  CHECK_OK(channel);
  wakeup.expect(**channel, EventKind::kReady);
  (*channel)->destroy();  // nobody takes a command any more
  wakeup.expect(**channel, EventKind::kClosed);
  uint32_t accepted = 0;
  while (accepted < 1000 && (*channel)->submit_sync()) ++accepted;
  CHECK_EQ(accepted, CommandQueue::kCapacity);
}

// Counts each word of the channel that asks to be heard.
class CountingWakeup final : public Wakeup {
 public:
  std::atomic<int> words = 0;

 private:
  void wake() override {
    ++words;
    disarm();
  }
};

// Three extents, the first of which cannot leave before all that follows is submitted.
int words_of_three_extents(bool with_sync) {
  const PlainListener listener;
  const auto memory = make_memory(48 << 20);
  auto ram = RamState::create(memory, make_tracker(TrackerKind::kVmm, memory).tracker);
  CHECK_OK(ram);
  const RamBlock& block = memory->blocks()[0];
  for (uint64_t page = 0; page < block.page_count(); ++page) {
    fill_page(block.host() + page * kPageSize, page + 1);
  }
  CHECK_OK((*ram)->start());
  CHECK_OK((*ram)->begin_round());
  SendCells cells{};
  CountingWakeup wakeup;
  auto channel = SendChannel::start(
      {.endpoint = listener.endpoint(), .initial = {}, .counters = cells.data()},
      std::make_shared<SendGroup>(*ram), wakeup);
  CHECK_OK(channel);
  InitialPacket initial;
  const UniqueFd peer = listener.accept_channel(initial);
  const std::vector<Extent> extents = (*ram)->plan(16 << 20);
  CHECK_EQ(extents.size(), size_t{3});
  for (const Extent& extent : extents) CHECK((*channel)->submit_extent(extent));
  if (with_sync) CHECK((*channel)->submit_sync());
  std::vector<uint8_t> bytes(1 << 20);
  Event event;
  for (int awaited = with_sync ? 5 : 4; awaited > 0;) {
    while (recv(peer.get(), bytes.data(), bytes.size(), MSG_DONTWAIT) > 0) continue;
    if (!(*channel)->next_event(event)) continue;
    CHECK(event.kind != EventKind::kFailed);
    --awaited;
  }
  // The last event can be read a moment before its wake-up was given.
  (*channel)->destroy();
  (*channel)->join();
  return wakeup.words - 2;  // without kReady and kClosed
}

TEST("a channel asks for more while it has two extents, unless a SYNC ends what it has") {
  CHECK_EQ(words_of_three_extents(false), 3);
  CHECK_EQ(words_of_three_extents(true), 1);  // the SYNC's own
}

}  // namespace
