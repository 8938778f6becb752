// Zero pages on their own way: a channel of a group that collects them sends packets without any,
// and packets and runs together name every page of every block exactly once.
#include <algorithm>
#include <cstring>
#include <thread>

#include "channel_fixture.h"
#include "engine/record_pool.h"

namespace {

using namespace fixture;  // NOLINT

// Plays the destination: reads packets until the second SYNC, and counts each page that came.
struct Received {
  std::vector<std::vector<int>> pages;  // [block][page]
  uint64_t packets = 0;
  bool content_right = true;
};

// What page `page` of block `block` is filled with; 0 is a zero page.
using Contents = std::vector<std::vector<uint64_t>>;

void read_all(int fd, void* out, size_t size) {
  CHECK_EQ(::recv(fd, out, size, MSG_WAITALL), static_cast<ssize_t>(size));
}

void check_sync_header(const std::array<uint8_t, kRamHeaderSize>& bytes) {
  // Magic, version, flags, and the packet number at 24: everything else is zero.
  for (size_t at = 12; at < bytes.size(); ++at) {
    if (at < 24 || at >= 32) CHECK_EQ(unsigned{bytes[at]}, 0U);
  }
}

Received receive(int fd, const GuestMemory& memory, const Contents& contents) {
  Received received;
  for (const RamBlock& block : memory.blocks()) received.pages.emplace_back(block.page_count());
  std::array<uint8_t, kRamHeaderSize> bytes;
  std::vector<uint8_t> page(kPageSize);
  for (int syncs = 0; syncs < 2;) {
    read_all(fd, bytes.data(), bytes.size());
    RamHeader header;
    CHECK_OK(parse_ram_header(bytes, header));
    CHECK_EQ(header.zero_pages, 0U);
    if ((header.flags & kFlagSync) != 0) {
      check_sync_header(bytes);
      ++syncs;
      continue;
    }
    CHECK_EQ(syncs, 1);  // the first SYNC is that of setup
    CHECK(header.normal_pages > 0);
    ++received.packets;
    const RamBlock* const block = memory.find(header.block());
    CHECK(block != nullptr);
    CHECK_OK(check_offsets(header, block->used_length));
    const auto index = static_cast<size_t>(block - memory.blocks().data());
    for (uint32_t i = 0; i < header.normal_pages; ++i) {
      const uint64_t number = header.offsets[i] / kPageSize;
      ++received.pages[index][number];
      read_all(fd, page.data(), page.size());
      if (!page_holds(page.data(), contents[index][number])) received.content_right = false;
    }
  }
  return received;
}

void add_runs(RamState& ram, Received& received) {
  for (;;) {
    const std::vector<BlockRun> runs = ram.take_zero_runs(kPagesPerWord);
    if (runs.empty()) return;
    CHECK(runs.size() <= kPagesPerWord);
    for (const auto& [block, range] : runs) {
      CHECK(range.count > 0);
      CHECK(range.first + range.count <= received.pages[block].size());
      for (uint64_t page = 0; page < range.count; ++page) {
        received.pages[block][range.first + page] += 100;
      }
    }
  }
}

std::shared_ptr<GuestMemory> make_blocks() {
  auto mapping = Mapping::open_memfd("multifd-test", 6000 * kPageSize);
  CHECK_OK(mapping);
  auto memory = GuestMemory::create({{"pc.ram", *mapping, 0, 5000 * kPageSize},
                                     {"/rom@etc/acpi/tables", *mapping, 5000, 33 * kPageSize},
                                     {"pc.rom", *mapping, 5033, 1 * kPageSize},
                                     {"empty", *mapping, 5034, 900 * kPageSize}});
  CHECK_OK(memory);
  return *memory;
}

// Half the pages are holes, a quarter is written with zeros; runs of all lengths, from one page on.
Contents fill(const GuestMemory& memory, check::Random& random) {
  Contents contents;
  for (const RamBlock& block : memory.blocks()) {
    auto& values = contents.emplace_back(block.page_count());
    if (block.idstr == "empty") continue;
    for (uint64_t page = 0; page < block.page_count();) {
      const uint64_t kind = random.below(4);
      const uint64_t end = std::min(block.page_count(), page + 1 + random.below(100));
      for (; page < end; ++page) {
        if (kind == 3) values[page] = random.next() | 1;
        if (kind >= 2) fill_page(block.host() + page * kPageSize, values[page]);
      }
    }
  }
  return contents;
}

void send_without_zero_pages(TrackerKind kind) {
  const CensusCheck before;
  {
    check::Random random(check::seed());
    const auto memory = make_blocks();
    const Contents contents = fill(*memory, random);
    auto created = RamState::create(memory, make_tracker(kind, memory).tracker);
    CHECK_OK(created);
    RamState& ram = **created;
    CHECK_OK(ram.collect_zero_pages());
    CHECK_OK(ram.start());
    const PlainListener listener;
    SendCells cells{};
    TestWakeup wakeup;
    auto channel = SendChannel::start(
        {.endpoint = listener.endpoint(), .initial = {}, .counters = cells.data()},
        std::make_shared<SendGroup>(*created), wakeup);
    CHECK_OK(channel);
    InitialPacket initial;
    const UniqueFd peer = listener.accept_channel(initial);
    wakeup.expect(**channel, EventKind::kReady);
    Received received;
    std::thread reader([&] { received = receive(peer.get(), *memory, contents); });
    CHECK((*channel)->submit_sync());
    wakeup.expect(**channel, EventKind::kSyncDone);
    CHECK_OK(ram.begin_round());
    for (const Extent& extent : ram.plan(1 << 20)) {
      CHECK((*channel)->submit_extent(extent));
      wakeup.expect(**channel, EventKind::kExtentDone);
    }
    CHECK((*channel)->submit_sync());
    wakeup.expect(**channel, EventKind::kSyncDone);
    reader.join();
    add_runs(ram, received);
    CHECK(received.content_right);
    uint64_t normal = 0;
    for (size_t block = 0; block < contents.size(); ++block) {
      for (size_t page = 0; page < contents[block].size(); ++page) {
        const bool zero = contents[block][page] == 0;
        CHECK_EQ(received.pages[block][page], zero ? 100 : 1);
        if (!zero) ++normal;
      }
    }
    CHECK_EQ(cell(cells, SendCounter::kNormalPages), static_cast<double>(normal));
    CHECK(cell(cells, SendCounter::kZeroPages) > 0);
    CHECK_EQ(cell(cells, SendCounter::kPackets), static_cast<double>(received.packets + 2));
    CHECK(ram.take_zero_runs(1 << 16).empty());
    (*channel)->destroy();
    wakeup.expect(**channel, EventKind::kClosed);
    (*channel)->join();
  }
  before.expect_unchanged();
}

TEST("packets without zero pages, and runs of all others, name every page once: vmm") {
  send_without_zero_pages(TrackerKind::kVmm);
}

TEST("packets without zero pages, and runs of all others, name every page once: userfaultfd") {
  send_without_zero_pages(TrackerKind::kUserfaultfd);
}

TEST("packets without zero pages, and runs of all others, name every page once: hash") {
  send_without_zero_pages(TrackerKind::kHash);
}

// Says of each record whether it may wait for the next one.
class Pushes final : public Engine {
 public:
  Result<SendRecord*> acquire() override { return pool_.take(); }
  Result<void> submit(SendRecord& record) override {
    RecordPool::begin_submit(record);
    waits.push_back(record.more);
    pool_.end_submit(record);
    return {};
  }
  void begin_extent() override {}
  Result<void> flush(size_t) override { return {}; }
  [[nodiscard]] size_t unreleased_bytes() const override { return 0; }
  [[nodiscard]] const EngineCounters& counters() const override { return counters_; }
  [[nodiscard]] SendMode mode() const override { return SendMode::kPlain; }
  [[nodiscard]] const Downgrades& downgrades() const override { return downgrades_; }
  bool reset() override { return true; }

  std::vector<bool> waits;

 private:
  RecordPool pool_{1};
  const EngineCounters counters_;
  const Downgrades downgrades_;
};

TEST("packets of nothing but zero pages wait for each other, but not at the end") {
  constexpr uint64_t kRecordPages = kPacketsPerRecord * kPacketPagesMax;
  constexpr uint64_t kPages = 4 * kRecordPages + 1;
  const auto memory = make_memory(kPages * kPageSize);
  uint8_t* const pages = memory->blocks()[0].host();
  std::memset(pages, 0, kPages * kPageSize);
  fill_page(pages + (2 * kRecordPages + 5) * kPageSize, 1);  // in the third record
  auto ram = RamState::create(memory, make_tracker(TrackerKind::kVmm, memory).tracker);
  CHECK_OK(ram);
  CHECK_OK((*ram)->start());
  CHECK_OK((*ram)->begin_round());
  Pushes engine;
  std::atomic<uint64_t> packet_num{0};
  ExtentSender sender(**ram, engine, packet_num, [](const PageCounters&) {},
                      PacketSize::kQemu);
  for (const Extent& extent : (*ram)->plan(kPages * kPageSize)) CHECK_OK(sender.send(extent));
  CHECK_OK(sender.send_sync());
  const std::vector<bool> expected = {true, true, false, true, false, false};
  CHECK(engine.waits == expected);
}

}  // namespace
