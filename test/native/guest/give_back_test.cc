// What becomes of a round when its connection is gone: RamState's way back, step by step, and then
// a whole migration against a model of channels, a destination, and cuts at random points.
#include <algorithm>
#include <array>
#include <deque>
#include <set>

#include "guest/ram_state.h"
#include "guest_fixture.h"

namespace {

using namespace multifd;
using fixture::Kind;
using fixture::make_mapping;
using Round = RamState::BegunRound;

struct Marked {
  std::shared_ptr<RamState> state;
  std::shared_ptr<VmmDirtyLog> log;
};

Marked make_state(std::shared_ptr<GuestMemory> memory) {
  auto made = make_vmm_tracker(memory);
  CHECK_OK(made);
  auto state = RamState::create(std::move(memory), std::move(made->tracker));
  CHECK_OK(state);
  CHECK_OK((*state)->start());
  return {*state, made->log};
}

// 130 pages and 64: three words, the last one partly used, and one.
std::shared_ptr<GuestMemory> two_blocks() {
  const auto mapping = make_mapping(Kind::kMemfd, 194 * kPageSize);
  auto memory = GuestMemory::create(
      {{"a", mapping, 0, 130 * kPageSize}, {"b", mapping, 130, 64 * kPageSize}});
  CHECK_OK(memory);
  return *memory;
}

using Pages = std::set<uint64_t>;

ReceivedPages received(size_t words, const Pages& pages) {
  ReceivedPages bitmap(std::in_place, words * 8);
  for (const uint64_t page : pages) {
    (*bitmap)[page / 8] = static_cast<uint8_t>((*bitmap)[page / 8] | 1U << (page % 8));
  }
  return bitmap;
}

Pages round_of(const RamState& state, uint32_t block) {
  Pages pages;
  for (uint64_t page = 0; page < state.round(block).page_count(); ++page) {
    if (state.round(block).test(page)) pages.insert(page);
  }
  return pages;
}

uint64_t begin(const Marked& marked) {
  const auto pages = marked.state->begin_round();
  CHECK_OK(pages);
  return *pages;
}

uint64_t give_back(const Marked& marked, Round which, const std::vector<ReceivedPages>& pages) {
  const auto given = marked.state->give_back(which, pages);
  CHECK_OK(given);
  return *given;
}

TEST("a round given back is in the next one, but for what was received") {
  const Marked marked = make_state(two_blocks());
  marked.log->mark(0, {0, 3});
  marked.log->mark(0, {129, 1});
  marked.log->mark(1, {63, 1});
  CHECK_EQ(begin(marked), 5U);
  // Pages outside the round, and bits beyond the block's end, give nothing.
  CHECK_EQ(give_back(marked, Round::kCurrent, {received(3, {1, 5, 129, 130, 191}), {}}), 3U);
  CHECK(marked.state->plan(1 << 20).empty());
  CHECK_EQ(give_back(marked, Round::kCurrent, {{}, {}}), 0U);
  CHECK_EQ(begin(marked), 3U);
  CHECK((round_of(*marked.state, 0) == Pages{0, 2}));
  CHECK((round_of(*marked.state, 1) == Pages{63}));
}

TEST("the round before can be given back while another is under way, and each once") {
  const Marked marked = make_state(two_blocks());
  marked.log->mark(0, {0, 4});
  CHECK_EQ(begin(marked), 4U);
  marked.log->mark(0, {3, 2});
  CHECK_EQ(begin(marked), 2U);
  // 3 was received in the older round, but written since: it is in the younger one, and stays.
  CHECK_EQ(give_back(marked, Round::kPrevious, {received(3, {0, 3}), {}}), 2U);
  CHECK_EQ(give_back(marked, Round::kPrevious, {{}, {}}), 0U);
  CHECK((round_of(*marked.state, 0) == Pages{3, 4}));
  CHECK_EQ(give_back(marked, Round::kCurrent, {{}, {}}), 2U);
  CHECK_EQ(begin(marked), 4U);
  CHECK((round_of(*marked.state, 0) == Pages{1, 2, 3, 4}));
  // Both were given back, so neither comes again.
  CHECK_EQ(give_back(marked, Round::kPrevious, {{}, {}}), 0U);
}

TEST("a round is forgotten when the second one after it begins") {
  const Marked marked = make_state(two_blocks());
  marked.log->mark(0, {7, 1});
  CHECK_EQ(begin(marked), 1U);
  CHECK_EQ(begin(marked), 0U);
  CHECK_EQ(begin(marked), 0U);
  CHECK_EQ(give_back(marked, Round::kPrevious, {{}, {}}), 0U);
  CHECK_EQ(begin(marked), 0U);
}

TEST("a page written after its late collect goes again, though it was received") {
  const Marked marked = make_state(two_blocks());
  marked.log->mark(0, {10, 1});
  CHECK_EQ(begin(marked), 1U);
  marked.log->mark(0, {10, 1});                          // in the round: travels once
  marked.log->mark(0, {20, 1});                          // not in it: late collect keeps it
  CHECK_OK(marked.state->late_collect({0, 0, 64, 1}));   // now 10 is copied and sent
  marked.log->mark(0, {10, 1});                          // and this is not what was sent
  CHECK_EQ(give_back(marked, Round::kCurrent, {received(3, {10, 20}), {}}), 0U);
  CHECK_EQ(begin(marked), 2U);
  CHECK((round_of(*marked.state, 0) == Pages{10, 20}));
}

TEST("an extended round is given back with what it was extended by") {
  const Marked marked = make_state(two_blocks());
  marked.log->mark(0, {1, 1});
  CHECK_EQ(begin(marked), 1U);
  marked.log->mark(1, {2, 1});
  CHECK_OK(marked.state->extend_round());
  CHECK_EQ(give_back(marked, Round::kCurrent, {{}, {}}), 2U);
  // And a round that is empty because it was given back can be extended instead of the next begun.
  const auto pages = marked.state->extend_round();
  CHECK_OK(pages);
  CHECK_EQ(*pages, 2U);
}

TEST("bitmaps that do not fit the blocks are refused, and nothing is changed") {
  const Marked marked = make_state(two_blocks());
  marked.log->mark(0, {1, 1});
  CHECK_EQ(begin(marked), 1U);
  const std::vector<std::vector<ReceivedPages>> wrong = {
      {},
      {received(3, {1})},
      {received(3, {1}), received(1, {}), {}},
      {received(2, {1}), {}},
      {received(4, {1}), {}},
      {received(3, {1}), received(0, {})},
      {std::vector<uint8_t>(17), {}},
  };
  for (const auto& pages : wrong) {
    const auto given = marked.state->give_back(Round::kCurrent, pages);
    CHECK(!given);
    CHECK(given.error().code == ErrorCode::kLimit);
  }
  CHECK((round_of(*marked.state, 0) == Pages{1}));
  CHECK_EQ(give_back(marked, Round::kCurrent, {{}, {}}), 1U);
}

// The model: a page's content is a number, which the guest counts up. Channels are queues that a
// destination empties; a cut empties them too, and may tear the page at the head.
class ModelMigration {
 public:
  explicit ModelMigration(uint64_t seed)
      : random_(seed), marked_(make_state(two_blocks())) {
    for (size_t block = 0; block < kPages.size(); ++block) {
      guest_[block].resize(kPages[block]);
      destination_[block].resize(kPages[block]);
    }
    for (int i = 0; i < 150; ++i) write();
  }

  void run(uint64_t steps) {
    for (uint64_t i = 0; i < steps; ++i) {
      if (random_.below(60) == 0) cut();
      if (random_.below(3) == 0) write();
      step();
    }
    // The guest stops. A round that was begun may lack its last writes; the next one has them.
    const uint64_t last = round_ + 1;
    stopped_ = true;
    while (acknowledged_ < last || sent_ != acknowledged_) {
      if (random_.below(100) == 0) cut();
      step();
    }
    for (size_t block = 0; block < kPages.size(); ++block) {
      CHECK(guest_[block] == destination_[block]);
    }
    const auto left = marked_.state->collect_into_next();
    CHECK_OK(left);
    CHECK_EQ(*left, 0U);
  }
  [[nodiscard]] uint64_t cuts() const { return cuts_; }
  [[nodiscard]] uint64_t spared() const { return spared_; }

 private:
  static constexpr std::array<uint64_t, 2> kPages = {130, 64};
  static constexpr uint64_t kTorn = ~0ULL;
  struct Sent {
    bool sync = false;
    uint32_t block = 0;
    uint64_t page = 0;
    uint64_t content = 0;
  };
  struct Channel {
    std::deque<Sent> queue;
    bool parked = false;
  };

  void write() {
    if (stopped_) return;
    const auto block = static_cast<uint32_t>(random_.below(kPages.size()));
    const uint64_t page = random_.below(kPages[block]);
    ++guest_[block][page];
    marked_.log->mark(block, {page, 1});
  }

  void step() {
    switch (random_.below(4)) {
      case 0: return send();
      case 1: return acknowledge();
      default: return receive();
    }
  }

  // The source: extents, SYNCs, the next round; at most one that is not acknowledged besides it.
  void send() {
    if (!extents_.empty()) {
      send_extent(channels_[random_.below(channels_.size())]);
    } else if (!sync_sent_) {
      for (Channel& channel : channels_) channel.queue.push_back({.sync = true});
      sync_sent_ = true;
      ++sent_;
    } else if (acknowledged_ + 1 >= round_) {
      CHECK_OK(marked_.state->begin_round());
      write();
      if (random_.below(4) == 0) CHECK_OK(marked_.state->extend_round());
      for (const Extent& extent : marked_.state->plan(0)) extents_.push_back(extent);
      ++round_;
      sync_sent_ = false;
    }
  }

  void send_extent(Channel& channel) {
    const Extent extent = extents_.back();
    extents_.pop_back();
    write();
    CHECK_OK(marked_.state->late_collect(extent));
    for (uint64_t page = extent.first_page; page < extent.first_page + extent.page_count; ++page) {
      if (!marked_.state->round(extent.block).test(page)) continue;
      channel.queue.push_back({.block = extent.block,
                               .page = page,
                               .content = guest_[extent.block][page]});
      if (random_.below(8) == 0) write();
    }
  }

  void receive() {
    Channel& channel = channels_[random_.below(channels_.size())];
    for (uint64_t count = random_.below(40); count > 0; --count) {
      if (channel.parked || channel.queue.empty()) break;
      const Sent sent = channel.queue.front();
      channel.queue.pop_front();
      if (sent.sync) {
        channel.parked = true;
      } else {
        destination_[sent.block][sent.page] = sent.content;
        since_sync_[sent.block].insert(sent.page);
      }
    }
    const auto parked = [](const Channel& one) { return one.parked; };
    if (!std::all_of(channels_.begin(), channels_.end(), parked)) return;
    ++collected_;
    for (Pages& pages : since_sync_) pages.clear();
    for (Channel& one : channels_) one.parked = false;
  }

  void acknowledge() { acknowledged_ = std::max(acknowledged_, collected_); }

  void cut() {
    ++cuts_;
    for (Channel& channel : channels_) {
      if (!channel.parked && !channel.queue.empty() && !channel.queue.front().sync) {
        const Sent& torn = channel.queue.front();
        if (random_.below(2) == 0) destination_[torn.block][torn.page] = kTorn;
      }
      channel = Channel();
    }
    extents_.clear();
    // The new connection: the destination says what it has, and from then on counts anew.
    const uint64_t collected = collected_;
    std::vector<ReceivedPages> pages;
    for (size_t block = 0; block < kPages.size(); ++block) {
      pages.push_back(received((kPages[block] + 63) / 64, since_sync_[block]));
      since_sync_[block].clear();
    }
    // This connection, too, may be cut before the source heard it.
    if (random_.below(4) == 0) return cut();
    resume(collected, pages);
  }

  void resume(uint64_t collected, const std::vector<ReceivedPages>& pages) {
    const std::vector<ReceivedPages> nothing(kPages.size());
    uint64_t whole = 0;
    for (uint32_t block = 0; block < kPages.size(); ++block) {
      whole += round_of(*marked_.state, block).size();
    }
    if (collected + 1 == round_) {
      spared_ += whole - give_back(marked_, Round::kCurrent, pages);
    } else if (collected + 2 == round_) {
      // Nothing of the younger round can have been read: it is behind a SYNC of the older one.
      give_back(marked_, Round::kPrevious, pages);
      CHECK_EQ(give_back(marked_, Round::kCurrent, nothing), whole);
    } else {
      CHECK_EQ(collected, round_);
    }
    round_ = collected;
    sent_ = collected;
    acknowledged_ = collected;
    sync_sent_ = true;
  }

  check::Random random_;
  const Marked marked_;
  std::array<std::vector<uint64_t>, kPages.size()> guest_;
  std::array<std::vector<uint64_t>, kPages.size()> destination_;
  std::array<Pages, kPages.size()> since_sync_;
  std::array<Channel, 3> channels_;
  std::vector<Extent> extents_;  // of the round, not sent yet
  bool stopped_ = false;
  bool sync_sent_ = true;
  uint64_t round_ = 0;         // begun and not given back; number r is collected as the rth
  uint64_t sent_ = 0;          // rounds whose SYNCs were sent
  uint64_t collected_ = 0;     // by the destination
  uint64_t acknowledged_ = 0;  // of these, what the source heard of
  uint64_t cuts_ = 0;
  uint64_t spared_ = 0;  // pages that did not have to go again
};

TEST("whatever is cut, and wherever, the destination has every page in the end") {
  check::Random random(check::seed());
  uint64_t cuts = 0;
  uint64_t spared = 0;
  for (int time = 0; time < 100; ++time) {
    ModelMigration migration(random.next());
    migration.run(200 + random.below(600));
    cuts += migration.cuts();
    spared += migration.spared();
  }
  CHECK(cuts > 100);
  CHECK(spared > 100);
}

}  // namespace
