// One suite, every tracker, every kind of memory: whatever the guest does while it is migrated, the
// destination ends up with its memory, and nothing is left to send.
#include <memory>
#include <utility>

#include "migration_fixture.h"

namespace {

using namespace multifd;
using namespace fixture;

// Two blocks that share a mapping, whose sizes are no multiples of a bitmap word and which leave
// room before and after: a tracker that looks beyond its blocks finds something there.
std::shared_ptr<GuestMemory> two_blocks(Kind kind) {
  const auto mapping = make_mapping(kind, 24 << 20);
  auto memory = GuestMemory::create({RamBlock{"low", mapping, 100, 4001 * kPageSize},
                                     RamBlock{"high", mapping, 4200, 1037 * kPageSize}});
  CHECK_OK(memory);
  fill_page(mapping->base() + 99 * kPageSize, 1);
  fill_page(mapping->base() + 4101 * kPageSize, 1);
  return *memory;
}

void migrate_a_running_guest(TrackerKind tracker_kind, Kind kind) {
  const auto memory = two_blocks(kind);
  Tracked tracked = make_tracker(tracker_kind, memory);
  {
    Writer before(memory, nullptr, check::seed(), nullptr);
    for (int i = 0; i < 1000; ++i) before.step();
  }
  Source source(memory, std::move(tracked.tracker), 96 * kPageSize);
  Writer guest(memory, tracked.log, check::seed() + 1, [&](uint32_t block, PageRange range) {
    if (!source.state().memory().discard(block, range)) std::abort();
  });
  guest.start();
  for (int round = 0; round < 12; ++round) {
    guest.wait_for(300);
    const uint64_t pages = source.round();
    CHECK(pages > 0);
    CHECK(pages <= 4001 + 1037);
  }
  guest.wait_for(300);
  guest.stop();
  CHECK(source.round() > 0);
  const auto left = source.state().collect_into_next();
  CHECK_OK(left);
  CHECK_EQ(*left, 0U);
  CHECK_EQ(source.shadow().differences(*memory), 0U);
  CHECK(source.sent_absent() > 0);
}

// Each page's last write must arrive though its first value came back, in every phase of a round.
void values_that_come_back(TrackerKind tracker_kind, Kind kind) {
  const auto memory = one_block(make_mapping(kind, 256 * kPageSize));
  Tracked tracked = make_tracker(tracker_kind, memory);
  uint8_t* const host = memory->blocks()[0].host();
  const auto write = [&](uint64_t page, uint64_t value) {
    poke(host + page * kPageSize + 64, value);
    if (tracked.log) tracked.log->mark(0, {page, 1});
  };
  const uint64_t a = 0xa;
  const uint64_t b = 0xb;
  for (uint64_t page = 0; page < 256; ++page) poke(host + page * kPageSize + 64, a);
  Source source(memory, std::move(tracked.tracker), 16 * kPageSize);
  CHECK_EQ(source.round(), 256U);
  for (uint64_t page = 0; page < 64; ++page) write(page, b);
  CHECK_OK(source.state().begin_round());
  for (uint64_t page = 0; page < 32; ++page) write(page, a);  // after the collect, before the copy
  source.send_round();
  for (uint64_t page = 32; page < 64; ++page) write(page, a);  // after the copy
  CHECK_OK(source.state().begin_round());
  for (uint64_t page = 0; page < 64; page += 2) write(page, b);
  source.send_round();
  for (uint64_t page = 0; page < 64; page += 4) write(page, a);
  source.round();
  CHECK_EQ(source.shadow().differences(*memory), 0U);
  const auto left = source.state().collect_into_next();
  CHECK_OK(left);
  CHECK_EQ(*left, 0U);
}

// In every phase of a round; the page must arrive as absent, and as present when it came back.
void discards_in_every_phase(TrackerKind tracker_kind, Kind kind) {
  const auto memory = one_block(make_mapping(kind, 1024 * kPageSize));
  Tracked tracked = make_tracker(tracker_kind, memory);
  uint8_t* const host = memory->blocks()[0].host();
  for (uint64_t page = 0; page < 1024; ++page) fill_page(host + page * kPageSize, page + 1);
  Source source(memory, std::move(tracked.tracker), 100 * kPageSize);
  RamState& state = source.state();
  CHECK_OK(state.memory().discard(0, {0, 10}));    // before the first round
  CHECK_OK(state.begin_round());
  CHECK_OK(state.memory().discard(0, {10, 10}));   // collected, not sent
  source.send_round();
  CHECK_OK(state.memory().discard(0, {20, 600}));  // sent
  poke(host + 30 * kPageSize, 77);        // discarded, written again
  if (tracked.log) tracked.log->mark(0, {30, 1});
  CHECK_EQ(peek(host + 31 * kPageSize), 0U);  // discarded, read again
  source.round();
  CHECK_OK(state.memory().discard(0, {1000, 24}));
  CHECK_OK(state.memory().discard(0, {1000, 24}));
  source.round();
  const auto left = state.collect_into_next();
  CHECK_OK(left);
  CHECK_EQ(*left, 0U);
  CHECK_EQ(source.shadow().differences(*memory), 0U);
  CHECK_EQ(peek(source.shadow().page(0, 30)), 77U);
  CHECK_EQ(peek(source.shadow().page(0, 1001)), 0U);
  CHECK_EQ(peek(source.shadow().page(0, 700)), 701U);
  const auto outside = state.memory().discard(0, {1000, 25});
  CHECK(!outside);
  CHECK(!state.memory().discard(1, {0, 1}));
}

// The first collect of a range returns what is populated, each later one what was written since.
void collects_by_range(TrackerKind tracker_kind, Kind kind) {
  const auto memory = one_block(make_mapping(kind, 1024 * kPageSize));
  Tracked tracked = make_tracker(tracker_kind, memory);
  uint8_t* const host = memory->blocks()[0].host();
  for (uint64_t page = 0; page < 1024; page += 2) poke(host + page * kPageSize, 1);
  CHECK_OK(tracked.tracker->start());
  auto into = DirtyBitmap::create(1024);
  CHECK_OK(into);
  const auto collect = [&](PageRange range, const DirtyBitmap* except) {
    into->clear();
    const auto added = tracked.tracker->collect(0, range, *into, except);
    CHECK_OK(added);
    CHECK_EQ(*added, into->count({0, 1024}));
    CHECK_EQ(*added, into->count(range));  // nothing outside the question
  };
  const auto send = [&](uint64_t page) {
    if (tracked.tracker->wants_sent_copies()) {
      std::vector<uint8_t> copy(host + page * kPageSize, host + (page + 1) * kPageSize);
      tracked.tracker->sent(0, page, copy.data());
    }
  };
  const auto write = [&](uint64_t page) {
    poke(host + page * kPageSize, peek(host + page * kPageSize) + 1);
    if (tracked.log) tracked.log->mark(0, {page, 1});
  };
  for (const PageRange range : {PageRange{0, 100}, {100, 29}, {129, 1}, {130, 894}}) {
    collect(range, nullptr);
    for (uint64_t page = range.first; page < range.first + range.count; ++page) {
      if (page % 2 == 0) CHECK(into->test(page));
      if (into->test(page)) send(page);
    }
  }
  collect({0, 1024}, nullptr);
  CHECK_EQ(into->count({0, 1024}), 0U);
  for (const uint64_t page : {0, 63, 64, 127, 128, 1023}) write(page);
  collect({1, 63}, nullptr);
  CHECK_EQ(into->count({0, 1024}), 1U);
  CHECK(into->test(63));
  send(63);
  collect({64, 960}, nullptr);
  CHECK_EQ(into->count({0, 1024}), 4U);
  for (const uint64_t page : {64, 127, 128, 1023}) send(page);
  collect({0, 1024}, nullptr);
  CHECK_EQ(into->count({0, 1024}), 1U);
  CHECK(into->test(0));
}

[[maybe_unused]] const bool added = [] {
  using Body = void (*)(TrackerKind, Kind);
  const std::pair<const char*, Body> suite[] = {
      {"a running guest arrives complete", migrate_a_running_guest},
      {"values that come back arrive", values_that_come_back},
      {"discards in every phase arrive as absent pages", discards_in_every_phase},
      {"ranges are collected one by one", collects_by_range}};
  for (const TrackerKind tracker : kTrackers) {
    for (const Kind kind : kKinds) {
      for (const auto& [sentence, body] : suite) {
        check::add(name_of(tracker) + ", " + name_of(kind) + " memory: " + sentence,
                   [body = body, tracker, kind] { body(tracker, kind); });
      }
    }
  }
  return true;
}();

// The suite's own test: a log that misses some writes must be caught by the comparison.
TEST("a tracker that loses writes is caught") {
  const auto memory = two_blocks(Kind::kAnonymous);
  Tracked tracked = make_tracker(TrackerKind::kVmm, memory);
  Source source(memory, std::move(tracked.tracker), 96 * kPageSize);
  source.round();
  Writer guest(memory, nullptr, check::seed(), nullptr);  // marks nothing
  for (int i = 0; i < 1000; ++i) guest.step();
  source.round();
  CHECK(source.shadow().differences(*memory) > 0);
}

// discard() against begin_round()'s flip: no mark may go into a bitmap that is being cleared.
TEST("discards while rounds begin are never lost") {
  const auto memory = one_block(make_mapping(Kind::kMemfd, 2048 * kPageSize));
  Tracked tracked = make_tracker(TrackerKind::kVmm, memory);
  uint8_t* const host = memory->blocks()[0].host();
  for (uint64_t page = 0; page < 2048; ++page) fill_page(host + page * kPageSize, page + 1);
  Source source(memory, std::move(tracked.tracker), 64 * kPageSize);
  std::thread vmm([&] {
    for (uint64_t page = 0; page < 2048; ++page) {
      if (!source.state().memory().discard(0, {page, 1})) std::abort();
    }
  });
  for (int round = 0; round < 20; ++round) source.round();
  vmm.join();
  source.round();
  CHECK_EQ(source.shadow().differences(*memory), 0U);
  CHECK_EQ(peek(source.shadow().page(0, 2047)), 0U);
}

}  // namespace
