// Tests of sending and receiving channels together, over loopback: every page arrives, a SYNC holds
// back what is behind it, and whatever ends a channel, nothing of it is left.
#include <functional>

#include "ways.h"
#include "guest/pagemap.h"

namespace {

using namespace fixture;  // NOLINT

// N channels between two guests' memories, driven from the test's thread as JavaScript would.
class Migration {
 public:
  struct Setup {
    size_t channels = 2;
    size_t size_bytes = 8 << 20;
    TrackerKind tracker = TrackerKind::kVmm;
    bool zero_copy = false;
    bool memfd = false;
    EngineKind engine = EngineKind::kSendmsg;
    bool registered = false;  // guest memory as fixed buffers of io_uring
    PacketSize packet_size = PacketSize::kQemu;
  };

  explicit Migration(const Setup& setup)
      : extent_bytes_(setup.packet_size == PacketSize::kLarge ? 3 << 20 : 256 << 10),
        source_(make_memory(setup.size_bytes, setup.memfd)),
        destination_(make_memory(setup.size_bytes, setup.memfd)) {
    CHECK_OK(destination_->empty());
    Tracked tracked = make_tracker(setup.tracker, source_);
    log_ = tracked.log;
    auto created = RamState::create(source_, std::move(tracked.tracker));
    CHECK_OK(created);
    ram_ = *created;
    auto received = ReceiveGroup::create(destination_);
    CHECK_OK(received);
    receive_group_ = *received;
    send_group_ = std::make_shared<SendGroup>(ram_);
    send_group_->io_uring = io_uring();
    if (setup.registered) {
      auto registered = register_memory(*ram_);
      CHECK_OK(registered);
      send_group_->registered = *registered;
    }
    for (size_t i = 0; i < setup.channels; ++i) {
      auto& end = ends_.emplace_back(std::make_unique<End>());
      SendChannelOptions options{.endpoint = listener_.endpoint(),
                                 .initial = {},
                                 .engine = setup.engine,
                                 .zero_copy = setup.zero_copy,
                                 .high_water_bytes = 4 << 20,
                                 .low_water_bytes = 1 << 20,
                                 .packet_size = setup.packet_size,
                                 .counters = end->send_cells.data()};
      options.initial.channel_id = static_cast<uint8_t>(i);
      auto sending = SendChannel::start(std::move(options), send_group_, end->send_wakeup);
      CHECK_OK(sending);
      end->sending = std::move(*sending);
      InitialPacket initial;
      UniqueFd fd = listener_.accept_channel(initial);
      CHECK_EQ(size_t{initial.channel_id}, i);
      auto receiving = ReceiveChannel::start(
          std::move(fd),
          {.channel_id = initial.channel_id,
           .packet_size = setup.packet_size,
           .counters = end->receive_cells.data()},
          receive_group_, end->receive_wakeup);
      CHECK_OK(receiving);
      end->receiving = std::move(*receiving);
      end->send_wakeup.expect(*end->sending, EventKind::kReady);
    }
  }

  // One round over all channels, and a SYNC on each, not yet released. Returns its pages. `then`
  // runs when the round is collected, and nothing of it sent.
  uint64_t send_round(const std::function<void()>& then = [] {}) {
    auto pages = ram_->begin_round();
    CHECK_OK(pages);
    then();
    const std::vector<Extent> extents = ram_->plan(extent_bytes_);
    std::vector<size_t> in_work(ends_.size());
    for (size_t i = 0; i < extents.size(); ++i) {
      const size_t channel = i % ends_.size();
      End& end = *ends_[channel];
      CHECK(end.sending->submit_extent(extents[i]));
      if (++in_work[channel] < 4) continue;  // four credits
      end.send_wakeup.expect(*end.sending, EventKind::kExtentDone);
      --in_work[channel];
    }
    for (size_t channel = 0; channel < ends_.size(); ++channel) {
      End& end = *ends_[channel];
      CHECK(end.sending->submit_sync());
      while (in_work[channel]-- > 0) {
        end.send_wakeup.expect(*end.sending, EventKind::kExtentDone);
      }
      end.send_wakeup.expect(*end.sending, EventKind::kSyncDone);
      CHECK_EQ(cell(end.send_cells, SendCounter::kUnreleasedBytes) <= kLargeRamHeaderSize, true);
    }
    return *pages;
  }
  void expect_syncs() {
    for (auto& end : ends_) end->receive_wakeup.expect(*end->receiving, EventKind::kSyncArrived);
  }
  void release_syncs() {
    for (auto& end : ends_) end->receiving->release_sync();
  }
  void close() {
    for (auto& end : ends_) {
      CHECK(end->sending->submit_close());
      end->send_wakeup.expect(*end->sending, EventKind::kClosed);
      end->sending->join();
      end->receive_wakeup.expect(*end->receiving, EventKind::kPeerEnd);
      end->receive_wakeup.expect(*end->receiving, EventKind::kClosed);
      end->receiving->join();
    }
  }
  // The guest writes a page, and says so where nobody else sees it.
  void write(uint64_t page, uint64_t value) {
    fill_page(source_page(page), value);
    if (log_) log_->mark(0, {page, 1});
  }
  void start() { CHECK_OK(ram_->start()); }
  [[nodiscard]] bool equal() const {
    return same_bytes(source_->blocks()[0].host(), destination_->blocks()[0].host(),
                      source_->blocks()[0].used_length);
  }
  [[nodiscard]] uint8_t* source_page(uint64_t page) const {
    return source_->blocks()[0].host() + page * kPageSize;
  }
  [[nodiscard]] uint8_t* destination_page(uint64_t page) const {
    return destination_->blocks()[0].host() + page * kPageSize;
  }
  [[nodiscard]] const EngineReport& report(size_t channel) const {
    return ends_[channel]->sending->engine_report();
  }
  [[nodiscard]] uint64_t pages() const { return source_->blocks()[0].page_count(); }
  template <typename Counter>
  [[nodiscard]] double sent(Counter counter) const {
    double sum = 0;
    for (const auto& end : ends_) sum += cell(end->send_cells, counter);
    return sum;
  }
  template <typename Counter>
  [[nodiscard]] double received(Counter counter) const {
    double sum = 0;
    for (const auto& end : ends_) sum += cell(end->receive_cells, counter);
    return sum;
  }

 private:
  struct End {
    SendCells send_cells{};
    ReceiveCells receive_cells{};
    TestWakeup send_wakeup;
    TestWakeup receive_wakeup;
    std::unique_ptr<SendChannel> sending;
    std::unique_ptr<ReceiveChannel> receiving;
  };
  const PlainListener listener_;
  const uint64_t extent_bytes_;
  const std::shared_ptr<GuestMemory> source_;
  const std::shared_ptr<GuestMemory> destination_;
  std::shared_ptr<VmmDirtyLog> log_;
  std::shared_ptr<RamState> ram_;
  std::shared_ptr<SendGroup> send_group_;
  std::shared_ptr<ReceiveGroup> receive_group_;
  std::vector<std::unique_ptr<End>> ends_;
};

// Private copies are not spliced.
EngineKind expected_kind(const Migration::Setup& setup) {
  const bool copies = setup.tracker == TrackerKind::kHash;
  return copies && setup.engine == EngineKind::kSplice ? EngineKind::kSendmsg : setup.engine;
}

SendMode expected_mode(const Migration::Setup& setup) {
  if (!setup.zero_copy || setup.tracker == TrackerKind::kHash) return SendMode::kPlain;
  if (setup.engine == EngineKind::kSplice) return SendMode::kSplice;
  return setup.registered ? SendMode::kZeroCopyFixed : SendMode::kZeroCopy;
}

void migrate(const Migration::Setup& setup) {
  if (setup.engine == EngineKind::kIoUring) {
    const auto& found = io_uring();
    for (const Ability* needed : {&found.io_uring, &found.usage_report, &found.fixed_sendmsg}) {
      if (!*needed) SKIP(std::string(needed->reason));
    }
  }
  const CensusCheck before;
  {
    check::Random random(check::seed());
    Migration migration(setup);
    // A fifth is never touched, a fifth is zero, the rest holds something.
    for (uint64_t page = 0; page < migration.pages(); ++page) {
      const uint64_t kind = random.below(5);
      if (kind > 0) fill_page(migration.source_page(page), kind == 1 ? 0 : random.next() | 1);
    }
    migration.start();
    for (int round = 0; round < 3; ++round) {
      migration.send_round();
      migration.expect_syncs();
      if (round == 2) CHECK(migration.equal());
      migration.release_syncs();
      if (round == 2) break;
      for (int i = 0; i < 300; ++i) {
        // Some pages become zero, some are written back.
        const uint64_t value = random.below(4) == 0 ? 0 : random.next() | 1;
        migration.write(random.below(migration.pages()), value);
      }
    }
    migration.close();
    CHECK(migration.equal());
    CHECK_EQ(migration.sent(SendCounter::kSentBytes),
             migration.received(ReceiveCounter::kReceivedBytes));
    CHECK_EQ(migration.sent(SendCounter::kNormalPages),
             migration.received(ReceiveCounter::kNormalPages));
    CHECK_EQ(migration.sent(SendCounter::kZeroPages),
             migration.received(ReceiveCounter::kZeroPages));
    CHECK_EQ(migration.sent(SendCounter::kPackets), migration.received(ReceiveCounter::kPackets));
    CHECK_EQ(migration.sent(SendCounter::kStrayNotifications), 0.0);
    for (size_t i = 0; i < setup.channels; ++i) {
      CHECK(migration.report(i).kind() == expected_kind(setup));
      CHECK(migration.report(i).mode() == expected_mode(setup));
      CHECK(migration.report(i).steps().empty());
    }
  }
  before.expect_unchanged();
}

[[maybe_unused]] const bool added = [] {
  for (const auto& [tracker, name] : kTrackers) {
    for (const Way& way : kWays) {
      for (const bool memfd : {false, true}) {
        for (const PacketSize size : {PacketSize::kQemu, PacketSize::kLarge}) {
          const bool large = size == PacketSize::kLarge;
          check::add("every page arrives: " + name + ", " + way.name +
                         (memfd ? ", memfd" : ", anonymous") + (large ? ", large packets" : ""),
                     [=, kind = tracker, &way] {
                       migrate({.tracker = kind,
                                .zero_copy = way.zero_copy,
                                .memfd = memfd,
                                .engine = way.engine,
                                .registered = way.registered,
                                .packet_size = size});
                     });
        }
      }
    }
  }
  return true;
}();

TEST("eight channels share one numbering and one memory") {
  migrate({.channels = 8});
  migrate({.channels = 8, .zero_copy = true, .engine = EngineKind::kIoUring, .registered = true});
}

TEST("registered memory may not be discarded until the migration is over") {
  if (!io_uring().io_uring) SKIP(std::string(io_uring().io_uring.reason));
  const auto memory = make_memory(1 << 20);
  {
    auto ram = RamState::create(memory, make_tracker(TrackerKind::kVmm, memory).tracker);
    CHECK_OK(ram);
    CHECK_OK(memory->discard(0, {0, 1}));
    CHECK_OK(register_memory(**ram));
    const auto refused = memory->discard(0, {0, 1});
    CHECK(!refused);
    CHECK(refused.error().code == multifd::ErrorCode::kState);
  }
  CHECK_OK(memory->discard(0, {0, 1}));
}

TEST("what is behind a SYNC is not read before the SYNC is released") {
  Migration migration({.channels = 2, .size_bytes = 64 * kPageSize});
  for (uint64_t page = 0; page < 64; ++page) fill_page(migration.source_page(page), 1000);
  migration.start();
  migration.send_round();
  migration.expect_syncs();
  migration.write(5, 2000);
  migration.send_round();  // on its way, in the sockets
  const double packets = migration.received(ReceiveCounter::kPackets);
  CHECK(page_holds(migration.destination_page(5), 1000));
  migration.release_syncs();
  migration.expect_syncs();
  CHECK(page_holds(migration.destination_page(5), 2000));
  CHECK(migration.received(ReceiveCounter::kPackets) > packets);
  migration.release_syncs();
  migration.close();
}

TEST("a page written after its round was collected, and before it is sent, travels once") {
  for (const TrackerKind tracker : {TrackerKind::kVmm, TrackerKind::kUserfaultfd}) {
    Migration migration({.channels = 1, .size_bytes = 256 * kPageSize, .tracker = tracker});
    for (uint64_t page = 0; page < 64; ++page) fill_page(migration.source_page(page), 1000);
    migration.start();
    CHECK_EQ(migration.send_round([&] { migration.write(5, 2000); }), 64U);
    migration.expect_syncs();
    migration.release_syncs();
    CHECK(page_holds(migration.destination_page(5), 2000));
    CHECK_EQ(migration.send_round(), 0U);
    migration.expect_syncs();
    migration.release_syncs();
    migration.close();
    CHECK(migration.equal());
  }
}

TEST("memory in huge pages is not registered, and may be discarded as before") {
  auto mapping = Mapping::allocate(4 << 20, true);
  CHECK_OK(mapping);
  const auto memory = GuestMemory::create({RamBlock{"pc.ram", *mapping, 0, 4 << 20}});
  CHECK_OK(memory);
  uint8_t* const host = (*memory)->blocks()[0].host();
  for (uint64_t page = 0; page < 1024; ++page) fill_page(host + page * kPageSize, 1);
  const auto pagemap = Pagemap::open();
  CHECK_OK(pagemap);
  const auto huge = pagemap->has_huge_pages(host, {0, 1024});
  if (!huge || !*huge) SKIP("the kernel gave no huge page");
  CHECK(!*pagemap->has_huge_pages(make_memory(1 << 20)->blocks()[0].host(), {0, 256}));
  auto ram = RamState::create(*memory, make_tracker(TrackerKind::kVmm, *memory).tracker);
  CHECK_OK(ram);
  const auto refused = register_memory(**ram);
  CHECK(!refused);
  CHECK(refused.error().code == multifd::ErrorCode::kUnsupported);
  CHECK_OK((*memory)->discard(0, {0, 1}));
}

TEST("a SYNC may be released before it arrives") {
  Migration migration({.channels = 1, .size_bytes = 64 * kPageSize});
  fill_page(migration.source_page(1), 7);
  migration.start();
  migration.release_syncs();
  migration.send_round();
  migration.expect_syncs();
  migration.close();
  CHECK(migration.equal());
}

TEST("channels that are dropped in the middle leave nothing behind") {
  const CensusCheck before;
  for (const Way& way : kWays) {
    if (way.engine == EngineKind::kIoUring && !io_uring().fixed_sendmsg) continue;
    for (int i = 0; i < 10; ++i) {
      Migration migration({.channels = 3,
                           .size_bytes = 1 << 20,
                           .zero_copy = way.zero_copy,
                           .engine = way.engine,
                           .registered = way.registered});
      for (uint64_t page = 0; page < migration.pages(); ++page) {
        fill_page(migration.source_page(page), page + 1);
      }
      migration.start();
      if (i % 2 == 0) migration.send_round();
    }
  }
  before.expect_unchanged();
}

}  // namespace
