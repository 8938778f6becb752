// RamState's plan and the way of a bit from `next` into a round.
#include "guest/ram_state.h"

#include <algorithm>
#include <thread>
#include <tuple>
#include <utility>

#include "guest_fixture.h"

namespace {

using namespace multifd;
using fixture::Kind;
using fixture::make_mapping;

constexpr uint64_t kPagesPerGiB = (1ULL << 30) / kPageSize;

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

// A tracker whose collects fail on demand.
class FailingTracker final : public DirtyTracker {
 public:
  explicit FailingTracker(std::unique_ptr<DirtyTracker> inner) : inner_(std::move(inner)) {}
  [[nodiscard]] std::string_view name() const override { return "failing"; }
  Result<void> start() override { return inner_->start(); }
  Result<uint64_t> collect(uint32_t block, PageRange range, DirtyBitmap& into,
                           const DirtyBitmap* except) override {
    if (block == fail_at) return Error::make(ErrorCode::kChannel, "asked to fail");
    return inner_->collect(block, range, into, except);
  }
  uint32_t fail_at = ~0U;

 private:
  std::unique_ptr<DirtyTracker> inner_;
};

// Every dirty page in exactly one extent, on word boundaries, within the limits.
void check_plan(const RamState& state, uint64_t target_pages) {
  const std::vector<Extent> extents = state.plan(target_pages * kPageSize);
  uint64_t planned = 0;
  uint64_t total = 0;
  uint32_t block = 0;
  uint64_t end = 0;
  for (const Extent& extent : extents) {
    if (extent.block != block) end = 0;
    CHECK(extent.block >= block);
    block = extent.block;
    const DirtyBitmap& bits = state.round(block);
    CHECK(extent.first_page >= end);
    CHECK_EQ(bits.count({end, extent.first_page - end}), 0U);
    end = extent.first_page + extent.page_count;
    CHECK_EQ(extent.first_page % kPagesPerWord, 0U);
    CHECK(extent.page_count % kPagesPerWord == 0 || end == bits.page_count());
    CHECK(end <= bits.page_count());
    CHECK(extent.page_count <= kPagesPerGiB);
    CHECK(extent.dirty_pages > 0);
    CHECK_EQ(bits.count({extent.first_page, extent.page_count}), extent.dirty_pages);
    CHECK(extent.dirty_pages <= target_pages || extent.page_count <= kPagesPerWord);
    // No clean words at either end.
    CHECK(bits.count({extent.first_page, std::min(kPagesPerWord, extent.page_count)}) > 0);
    planned += extent.dirty_pages;
  }
  for (uint32_t i = 0; i < state.memory().blocks().size(); ++i) {
    total += state.round(i).count({0, state.round(i).page_count()});
  }
  CHECK_EQ(planned, total);
}

TEST("a plan holds every dirty page once, whatever the pattern and the target") {
  check::Random random(check::seed());
  const auto mapping = make_mapping(Kind::kMemfd, 20000 * kPageSize);
  auto memory = GuestMemory::create({{"a", mapping, 0, 9999 * kPageSize},
                                     {"b", mapping, 9999, 65 * kPageSize},
                                     {"c", mapping, 10064, 1 * kPageSize},
                                     {"d", mapping, 10065, 9935 * kPageSize}});
  CHECK_OK(memory);
  for (int pattern = 0; pattern < 40; ++pattern) {
    const Marked marked = make_state(*memory);
    for (uint32_t block = 0; block < 4; ++block) {
      const uint64_t pages = (*memory)->blocks()[block].page_count();
      for (uint64_t runs = random.below(30); runs > 0; --runs) {
        marked.log->mark(block, {random.below(pages), 1 + random.below(1ULL << random.below(13))});
      }
    }
    CHECK_OK(marked.state->begin_round());
    for (const uint64_t target : {0, 1, 64, 100, 512, 4096, 1000000}) {
      check_plan(*marked.state, target);
    }
  }
}

TEST("an empty round has an empty plan, and a full one is cut to the target exactly") {
  const Marked marked = make_state(fixture::one_block(make_mapping(Kind::kMemfd, 64 << 20)));
  auto pages = marked.state->begin_round();
  CHECK_OK(pages);
  CHECK_EQ(*pages, 0U);
  CHECK(marked.state->plan(1 << 24).empty());
  marked.log->mark(0, {0, ~0ULL});
  pages = marked.state->begin_round();
  CHECK_OK(pages);
  CHECK_EQ(*pages, 16384U);
  const std::vector<Extent> extents = marked.state->plan(16 << 20);
  CHECK_EQ(extents.size(), 4U);
  for (const Extent& extent : extents) CHECK_EQ(extent.dirty_pages, 4096U);
}

TEST("an almost clean terabyte yields few extents, none above a gibibyte of address space") {
  auto mapping = Mapping::open_memfd("multifd-test", 1ULL << 40);
  if (!mapping && mapping.error().errno_value == ENOMEM) {
    SKIP("no terabyte of address space is free (ThreadSanitizer's layout, or RLIMIT_AS)");
  }
  CHECK_OK(mapping);
  const Marked marked = make_state(fixture::one_block(std::move(*mapping)));
  marked.log->mark(0, {0, 1});
  marked.log->mark(0, {kPagesPerGiB - 1, 2});            // two extents: beyond the first gibibyte
  marked.log->mark(0, {500 * kPagesPerGiB, 4096 + 10});  // two extents of 16 MiB and a bit
  marked.log->mark(0, {1024 * kPagesPerGiB - 1, 1});
  const auto pages = marked.state->begin_round();
  CHECK_OK(pages);
  CHECK_EQ(*pages, 4110U);
  check_plan(*marked.state, 4096);
  CHECK_EQ(marked.state->plan(16 << 20).size(), 5U);
}

TEST("late collect keeps the round's pages out of the next round, and all others in it") {
  const Marked marked = make_state(fixture::one_block(make_mapping(Kind::kMemfd, 1 << 20)));
  marked.log->mark(0, {0, 64});
  CHECK_OK(marked.state->begin_round());
  marked.log->mark(0, {32, 96});  // 32..63 are in the round; 64..127 are not; 128 is not collected
  marked.log->mark(0, {128, 1});
  CHECK_OK(marked.state->late_collect({0, 0, 128, 64}));
  const auto pages = marked.state->begin_round();
  CHECK_OK(pages);
  CHECK_EQ(*pages, 65U);
  CHECK(!marked.state->round(0).test(63));
  CHECK(marked.state->round(0).test(64));
  CHECK(marked.state->round(0).test(128));
}

TEST("a round that is extended takes in all that was written until then, and leaves nothing") {
  const Marked marked = make_state(fixture::one_block(make_mapping(Kind::kMemfd, 1 << 20)));
  marked.log->mark(0, {0, 10});
  CHECK_OK(marked.state->begin_round());
  marked.log->mark(0, {70, 1});
  CHECK_OK(marked.state->late_collect({0, 64, 64, 0}));  // into the next round
  marked.log->mark(0, {200, 3});                         // not collected yet
  const auto pages = marked.state->extend_round();
  CHECK_OK(pages);
  CHECK_EQ(*pages, 14U);
  for (const uint64_t page : {0U, 9U, 70U, 200U, 202U}) CHECK(marked.state->round(0).test(page));
  const auto left = marked.state->collect_into_next();
  CHECK_OK(left);
  CHECK_EQ(*left, 0U);
}

// Punching 64 MiB takes long against a flip, and its last page goes last: were the mark visible to
// a round before the memory is gone, that round would send the old content as the page's last.
TEST("a round that carries a discarded page begins after the memory is gone") {
  constexpr uint64_t kPages = 16384;
  const auto mapping = make_mapping(Kind::kMemfd, kPages * kPageSize);
  const Marked marked = make_state(fixture::one_block(mapping));
  for (int time = 0; time < 5; ++time) {
    for (uint64_t page = 0; page < kPages; ++page) {
      fixture::poke(mapping->base() + page * kPageSize, 1);
    }
    CHECK_OK(marked.state->begin_round());
    std::thread vmm([&] {
      if (!marked.state->memory().discard(0, {0, kPages})) std::abort();
    });
    bool gone = true;
    bool carried = false;
    while (!carried) {
      const auto pages = marked.state->begin_round();
      if (!pages) std::abort();
      carried = marked.state->round(0).test(kPages - 1);
      if (carried) gone = fixture::peek(mapping->base() + (kPages - 1) * kPageSize) == 0;
    }
    vmm.join();
    CHECK(gone);
  }
}

TEST("a round that fails to begin leaves the round before in place and loses nothing") {
  const auto mapping = make_mapping(Kind::kMemfd, 256 * kPageSize);
  auto memory = GuestMemory::create(
      {{"a", mapping, 0, 128 * kPageSize}, {"b", mapping, 128, 128 * kPageSize}});
  CHECK_OK(memory);
  auto made = make_vmm_tracker(*memory);
  CHECK_OK(made);
  auto failing = std::make_unique<FailingTracker>(std::move(made->tracker));
  FailingTracker& tracker = *failing;
  auto created = RamState::create(*memory, std::move(failing));
  CHECK_OK(created);
  RamState& state = **created;
  CHECK_OK(state.start());
  made->log->mark(0, {5, 1});
  CHECK_OK(state.begin_round());
  made->log->mark(0, {6, 1});
  made->log->mark(1, {7, 1});
  tracker.fail_at = 1;
  CHECK(!state.begin_round());
  CHECK(state.round(0).test(5));
  CHECK(!state.round(0).test(6));
  tracker.fail_at = ~0U;
  const auto pages = state.begin_round();
  CHECK_OK(pages);
  CHECK_EQ(*pages, 2U);
  CHECK(state.round(0).test(6));
  CHECK(state.round(1).test(7));
}

TEST("zero pages are what no round holds, then what is found, and each is handed over once") {
  const auto mapping = make_mapping(Kind::kMemfd, 1000 * kPageSize);
  auto memory = GuestMemory::create(
      {{"a", mapping, 0, 700 * kPageSize}, {"b", mapping, 700, 65 * kPageSize}});
  CHECK_OK(memory);
  const Marked marked = make_state(*memory);
  CHECK(marked.state->take_zero_runs(1000).empty());
  CHECK_OK(marked.state->collect_zero_pages());
  marked.log->mark(0, {0, 10});
  marked.log->mark(0, {600, 100});
  CHECK_OK(marked.state->begin_round());
  marked.log->mark(0, {20, 1});
  CHECK_OK(marked.state->extend_round());
  using Run = std::tuple<uint32_t, uint64_t, uint64_t>;
  const auto take = [&marked](size_t limit) {
    std::vector<Run> runs;
    for (const BlockRun& run : marked.state->take_zero_runs(limit)) {
      runs.emplace_back(run.block, run.pages.first, run.pages.count);
    }
    return runs;
  };
  CHECK((take(1000) == std::vector<Run>{{0, 10, 10}, {0, 21, 579}, {1, 0, 65}}));
  CHECK(take(1000).empty());
  for (const uint64_t page : {63, 64, 600, 602, 604}) marked.state->found_zero(0, page);
  CHECK((take(1000) == std::vector<Run>{{0, 63, 2}, {0, 600, 1}, {0, 602, 1}, {0, 604, 1}}));
  // A page that the next round carries is not handed over before that round looked at it.
  marked.state->found_zero(0, 5);
  marked.log->mark(0, {5, 1});
  CHECK_OK(marked.state->begin_round());
  CHECK(take(1000).empty());
  // A limit cuts between words only.
  for (uint64_t page = 0; page < 700; page += 2) marked.state->found_zero(0, page);
  size_t taken = 0;
  for (auto runs = take(64); !runs.empty(); runs = take(64)) {
    CHECK(runs.size() <= 64);
    taken += runs.size();
  }
  CHECK_EQ(taken, 350U);
}

}  // namespace
