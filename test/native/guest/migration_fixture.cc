// See migration_fixture.h.
#include "migration_fixture.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "guest/page_ops.h"

namespace fixture {

uint64_t Shadow::differences(const GuestMemory& memory) const {
  uint64_t different = 0;
  std::vector<uint8_t> copy(kPageSize);
  const std::vector<uint8_t> zero(kPageSize);
  for (size_t index = 0; index < memory.blocks().size(); ++index) {
    const RamBlock& block = memory.blocks()[index];
    std::vector<PageRange> ranges;
    CHECK_OK(block.populated({0, block.page_count()}, ranges));
    std::vector<bool> present(block.page_count());
    for (const uint64_t page : pages_of(ranges)) present[page] = true;
    for (uint64_t page = 0; page < block.page_count(); ++page) {
      if (present[page]) multifd::copy_page(copy.data(), block.host() + page * kPageSize);
      const std::vector<uint8_t>& expected = present[page] ? copy : zero;
      if (std::memcmp(pages_[index].data() + page * kPageSize, expected.data(), kPageSize) != 0) {
        ++different;
      }
    }
  }
  return different;
}

Source::Source(std::shared_ptr<GuestMemory> memory, std::unique_ptr<DirtyTracker> tracker,
               uint64_t extent_dirty_bytes)
    : memory_(std::move(memory)), shadow_(*memory_), extent_dirty_bytes_(extent_dirty_bytes) {
  auto state = RamState::create(memory_, std::move(tracker));
  CHECK_OK(state);
  state_ = std::move(*state);
  CHECK_OK(state_->start());
}

uint64_t Source::round() {
  const auto pages = state_->begin_round();
  CHECK_OK(pages);
  send_round();
  return *pages;
}

void Source::send_round() {
  const std::vector<Extent> extents = state_->plan(extent_dirty_bytes_);
  std::atomic<size_t> next{0};
  const auto channel = [&] {
    for (size_t at = next++; at < extents.size(); at = next++) send_extent(extents[at]);
  };
  std::thread other(channel);
  channel();
  other.join();
}

void Source::send_extent(const Extent& extent) {
  // On a channel's thread: a failed check ends the program.
  if (const auto late = state_->late_collect(extent); !late) std::abort();
  const RamBlock& block = memory_->blocks()[extent.block];
  std::vector<PageRange> ranges;
  const PageRange all{extent.first_page, extent.page_count};
  if (const auto asked = block.populated(all, ranges); !asked) std::abort();
  std::vector<bool> present(extent.page_count);
  for (const uint64_t page : pages_of(ranges)) present[page - extent.first_page] = true;
  const multifd::DirtyBitmap& bits = state_->round(extent.block);
  for (uint64_t i = 0; i < extent.page_count; ++i) {
    if (bits.test(extent.first_page + i)) {
      send_page(extent.block, extent.first_page + i, present[i]);
    }
  }
}

void Source::send_page(uint32_t block, uint64_t page, bool populated) {
  DirtyTracker& tracker = state_->tracker();
  uint8_t* const target = shadow_.page(block, page);
  if (populated) {
    multifd::copy_page(target, memory_->blocks()[block].host() + page * kPageSize);
  } else {
    std::memset(target, 0, kPageSize);
    ++sent_absent_;
  }
  if (tracker.wants_sent_copies()) tracker.sent(block, page, populated ? target : nullptr);
}

Writer::Writer(std::shared_ptr<GuestMemory> memory, std::shared_ptr<VmmDirtyLog> log,
               uint64_t seed, Discard discard)
    : memory_(std::move(memory)), log_(std::move(log)), discard_(std::move(discard)),
      random_(seed) {}

Writer::~Writer() { stop(); }

void Writer::start() {
  thread_ = std::thread([this] {
    while (!stop_.load(std::memory_order_relaxed)) step();
  });
}

void Writer::stop() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

void Writer::wait_for(uint64_t count) const {
  const uint64_t until = steps_.load() + count;
  while (steps_.load() < until) std::this_thread::yield();
}

void Writer::wrote(uint32_t block, uint64_t page) {
  if (log_ == nullptr) return;
  if (random_.below(2) == 0) {
    log_->mark(block, {page, 1});
    return;
  }
  const uint8_t bytes[2] = {static_cast<uint8_t>(1U << (page % 8)), 0};
  log_->or_bytes(block, page - page % 8, bytes, sizeof bytes);
}

void Writer::step() {
  const uint32_t index = static_cast<uint32_t>(random_.below(memory_->blocks().size()));
  const RamBlock& block = memory_->blocks()[index];
  // Half of the writes go to a sixteenth of the pages.
  const uint64_t reach =
      random_.below(2) == 0 ? std::max<uint64_t>(1, block.page_count() / 16) : block.page_count();
  const uint64_t page = random_.below(reach);
  uint8_t* const at = block.host() + page * kPageSize;
  uint8_t* const word = at + random_.below(kPageSize / 8) * 8;
  switch (random_.below(8)) {
    case 0:
      fill_page(at, random_.next());
      wrote(index, page);
      break;
    case 1:
      fill_page(at, 0);
      wrote(index, page);
      break;
    case 2: {
      // A -> B -> A, marked in between and after, as a VMM that marks every write does.
      const uint64_t before = peek(word);
      poke(word, ~before);
      wrote(index, page);
      poke(word, before);
      wrote(index, page);
      break;
    }
    case 3:
      if (random_.below(4) == 0 && discard_) {
        const uint64_t most = std::min<uint64_t>(block.page_count() - page, 80);
        discard_(index, {page, random_.below(most) + 1});
      }
      break;
    default:
      poke(word, random_.next());
      wrote(index, page);
  }
  steps_.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace fixture
