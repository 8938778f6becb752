// One migration over several connections, each but the last one cut in the middle of a round with
// sends in flight: the source's book and the destination's stay good, and every page arrives.
#include <thread>

#include "ways.h"

namespace {

using namespace fixture;  // NOLINT

enum class Groups { kKept, kAnew };  // whether a new connection has a send group of its own

struct Setup {
  TrackerKind tracker = TrackerKind::kVmm;
  EngineKind engine = EngineKind::kSendmsg;
  bool zero_copy = false;
  bool registered = false;
  Groups groups = Groups::kKept;
};

// The channels of one connection.
class Connection {
 public:
  Connection(const Setup& setup, const PlainListener& listener,
             const std::shared_ptr<SendGroup>& send_group,
             const std::shared_ptr<ReceiveGroup>& receive_group) {
    for (uint8_t id = 0; id < 3; ++id) {
      auto& end = ends_.emplace_back(std::make_unique<End>());
      SendChannelOptions options{.endpoint = listener.endpoint(),
                                 .initial = {},
                                 .engine = setup.engine,
                                 .zero_copy = setup.zero_copy,
                                 .high_water_bytes = 4 << 20,
                                 .low_water_bytes = 1 << 20,
                                 .counters = end->send_cells.data()};
      options.initial.channel_id = id;
      auto sending = SendChannel::start(std::move(options), send_group, end->wakeup);
      CHECK_OK(sending);
      end->sending = std::move(*sending);
      InitialPacket initial;
      UniqueFd fd = listener.accept_channel(initial);
      auto receiving = ReceiveChannel::start(
          std::move(fd), {.channel_id = id, .counters = end->receive_cells.data()}, receive_group,
          end->wakeup_of_receiver);
      CHECK_OK(receiving);
      end->receiving = std::move(*receiving);
      end->wakeup.expect(*end->sending, EventKind::kReady);
      const SendMode mode = end->sending->engine_report().mode();
      if (setup.registered) CHECK(mode == SendMode::kZeroCopyFixed);
    }
  }

  // All of it, and a SYNC, which is collected.
  void send(const std::vector<Extent>& extents, ReceiveGroup& receive_group) {
    for (size_t i = 0; i < extents.size(); ++i) {
      End& end = *ends_[i % ends_.size()];
      CHECK(end.sending->submit_extent(extents[i]));
      end.wakeup.expect(*end.sending, EventKind::kExtentDone);
    }
    for (auto& end : ends_) {
      CHECK(end->sending->submit_sync());
      end->wakeup.expect(*end->sending, EventKind::kSyncDone);
    }
    for (auto& end : ends_) {
      end->wakeup_of_receiver.expect(*end->receiving, EventKind::kSyncArrived);
    }
    receive_group.clear_received_since_sync();
    for (auto& end : ends_) end->receiving->release_sync();
  }

  // As much as the channels take without being asked whether it is done; then, when some of it has
  // arrived, the end of everything.
  void send_and_cut(const std::vector<Extent>& extents, const ReceiveGroup& receive_group,
                    check::Random& random) {
    for (size_t i = 0; i < std::min(extents.size(), ends_.size() * 8); ++i) {
      CHECK(ends_[i % ends_.size()]->sending->submit_extent(extents[i]));
    }
    // A packet counts when the header behind it came, so there must be two on a channel.
    CHECK(extents.size() > ends_.size());
    const DirtyBitmap& arrived = receive_group.received_since_sync[0];
    while (arrived.count({0, arrived.page_count()}) == 0) std::this_thread::yield();
    for (uint64_t yields = random.below(20); yields > 0; --yields) std::this_thread::yield();
    const bool source_first = random.below(2) == 0;
    for (auto& end : ends_) {
      if (source_first) end->sending->destroy();
      end->receiving->destroy();
      end->sending->destroy();
    }
    for (auto& end : ends_) {
      while (end->wakeup.next(*end->sending).kind != EventKind::kClosed) continue;
      while (end->wakeup_of_receiver.next(*end->receiving).kind != EventKind::kClosed) continue;
      end->sending->join();
      end->receiving->join();
    }
  }

 private:
  struct End {
    SendCells send_cells{};
    ReceiveCells receive_cells{};
    TestWakeup wakeup;
    TestWakeup wakeup_of_receiver;
    std::unique_ptr<SendChannel> sending;
    std::unique_ptr<ReceiveChannel> receiving;
  };
  std::vector<std::unique_ptr<End>> ends_;
};

class Resumed {
 public:
  explicit Resumed(const Setup& setup)
      : setup_(setup), source_(make_memory(kBytes)), destination_(make_memory(kBytes)) {
    CHECK_OK(destination_->empty());
    Tracked tracked = make_tracker(setup.tracker, source_);
    log_ = tracked.log;
    auto created = RamState::create(source_, std::move(tracked.tracker));
    CHECK_OK(created);
    ram_ = *created;
    auto received = ReceiveGroup::create(destination_);
    CHECK_OK(received);
    receive_group_ = *received;
    for (uint64_t page = 0; page < kPages; ++page) {
      const uint64_t kind = random_.below(5);
      if (kind > 0) fill_page(source_page(page), kind == 1 ? 0 : random_.next() | 1);
    }
    make_send_group();
    CHECK_OK(ram_->start());
  }

  void run() {
    for (int connection = 0; connection < 6; ++connection) {
      if (connection > 0 && setup_.groups == Groups::kAnew) make_send_group();
      Connection channels(setup_, listener_, send_group_, receive_group_);
      if (connection % 3 == 1) {
        CHECK_OK(ram_->begin_round());
        channels.send(ram_->plan(64 * kPageSize), *receive_group_);
        write(100);
      }
      const auto pages = ram_->begin_round();
      CHECK_OK(pages);
      write(20);
      channels.send_and_cut(ram_->plan(10 * kPageSize), *receive_group_, random_);
      CHECK_EQ(ram_->round(0).count({0, kPages}), *pages);
      give_back(*pages);
      write(100);
    }
    if (setup_.groups == Groups::kAnew) make_send_group();
    Connection channels(setup_, listener_, send_group_, receive_group_);
    CHECK_OK(ram_->begin_round());
    channels.send(ram_->plan(1 << 20), *receive_group_);
    const auto left = ram_->collect_into_next();
    CHECK_OK(left);
    CHECK_EQ(*left, 0U);  // before the comparison: reading an absent page looks like a write
    CHECK(same_bytes(source_page(0), destination_->blocks()[0].host(), kBytes));
  }

 private:
  static constexpr uint64_t kPages = 4096;
  static constexpr size_t kBytes = kPages * kPageSize;

  [[nodiscard]] uint8_t* source_page(uint64_t page) const {
    return source_->blocks()[0].host() + page * kPageSize;
  }
  void write(int times) {
    for (int i = 0; i < times; ++i) {
      const uint64_t page = random_.below(kPages);
      fill_page(source_page(page), random_.below(4) == 0 ? 0 : random_.next() | 1);
      if (log_) log_->mark(0, {page, 1});
    }
  }
  void make_send_group() {
    send_group_ = std::make_shared<SendGroup>(ram_);
    send_group_->io_uring = io_uring();
    if (!setup_.registered) return;
    auto registered = register_memory(*ram_);
    CHECK_OK(registered);
    send_group_->registered = *registered;
  }
  void give_back(uint64_t round_pages) {
    const DirtyBitmap& since_sync = receive_group_->received_since_sync[0];
    std::vector<ReceivedPages> received(1);
    received[0].emplace(kPages / 8);
    for (uint64_t page = 0; page < kPages; ++page) {
      if (!since_sync.test(page)) continue;
      uint8_t& byte = (*received[0])[page / 8];
      byte = static_cast<uint8_t>(byte | 1U << (page % 8));
    }
    receive_group_->clear_received_since_sync();
    const auto given = ram_->give_back(RamState::BegunRound::kCurrent, received);
    CHECK_OK(given);
    CHECK(*given < round_pages);  // something had arrived, and need not go again
  }

  const Setup setup_;
  check::Random random_{check::seed()};
  const PlainListener listener_;
  const std::shared_ptr<GuestMemory> source_;
  const std::shared_ptr<GuestMemory> destination_;
  std::shared_ptr<VmmDirtyLog> log_;
  std::shared_ptr<RamState> ram_;
  std::shared_ptr<SendGroup> send_group_;
  std::shared_ptr<ReceiveGroup> receive_group_;
};

void resume(const Setup& setup) {
  if (setup.engine == EngineKind::kIoUring) {
    const auto& found = io_uring();
    for (const Ability* needed : {&found.io_uring, &found.usage_report, &found.fixed_sendmsg}) {
      if (!*needed) SKIP(std::string(needed->reason));
    }
  }
  const CensusCheck before;
  Resumed(setup).run();
  before.expect_unchanged();
}

[[maybe_unused]] const bool added = [] {
  for (const auto& [tracker, name] : kTrackers) {
    for (const Way& way : kWays) {
      if (tracker == TrackerKind::kHash && way.zero_copy) continue;  // it sends copies
      for (const Groups groups : {Groups::kKept, Groups::kAnew}) {
        check::add("a cut connection loses no page: " + name + ", " + way.name +
                       (groups == Groups::kKept ? ", the same group" : ", a new group"),
                   [=, kind = tracker, &way] {
                     resume({.tracker = kind,
                             .engine = way.engine,
                             .zero_copy = way.zero_copy,
                             .registered = way.registered,
                             .groups = groups});
                   });
      }
    }
  }
  return true;
}();

}  // namespace
