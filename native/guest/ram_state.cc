// See ram_state.h. Three bitmaps per block: the next round's, this one's, and the previous one's.
// Nothing here ever clears a bit of `next`; begin_round() clears `previous`, which nobody writes
// to, and flips.
//
//   tracker.collect ─► next ◄─ late_collect, discard    flip: next becomes round, round previous,
//                        │  ◄─ give_back ◄───┐                and previous next
//                      round ─► previous ────┘
//                        └─► plan ─► extents ─► channel threads read it
#include "guest/ram_state.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace multifd {

namespace {

constexpr uint64_t kExtentMaxWords = (1ULL << 30) / kPageSize / kPagesPerWord;  // 1 GiB

Result<void> check_received(const std::vector<RamBlock>& blocks,
                            std::span<const ReceivedPages> received) {
  if (received.size() != blocks.size()) {
    return Error::make(ErrorCode::kLimit,
                       "got bitmaps of received pages for %zu RAM blocks, expected %zu",
                       received.size(), blocks.size());
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    const uint64_t words = (blocks[i].page_count() + kPagesPerWord - 1) / kPagesPerWord;
    if (!received[i] || received[i]->size() == words * sizeof(uint64_t)) continue;
    return Error::make(ErrorCode::kLimit,
                       "the bitmap of received pages of RAM block \"%s\" has %zu bytes, "
                       "expected %llu",
                       blocks[i].idstr.c_str(), received[i]->size(),
                       static_cast<unsigned long long>(words * sizeof(uint64_t)));
  }
  return {};
}

uint64_t word_of(const std::vector<uint8_t>& bytes, uint64_t index) {
  static_assert(std::endian::native == std::endian::little);
  uint64_t word = 0;
  std::memcpy(&word, bytes.data() + index * sizeof word, sizeof word);
  return word;
}

}  // namespace

RamState::RamState(std::shared_ptr<GuestMemory> memory, std::unique_ptr<DirtyTracker> tracker,
                   std::vector<std::array<DirtyBitmap, 3>> bitmaps)
    : memory_(std::move(memory)), tracker_(std::move(tracker)), bitmaps_(std::move(bitmaps)) {}

Result<std::shared_ptr<RamState>> RamState::create(std::shared_ptr<GuestMemory> memory,
                                                   std::unique_ptr<DirtyTracker> tracker) {
  std::vector<std::array<DirtyBitmap, 3>> bitmaps;
  for (const RamBlock& block : memory->blocks()) {
    std::array<DirtyBitmap, 3> three;
    for (DirtyBitmap& bitmap : three) {
      Result<DirtyBitmap> created = DirtyBitmap::create(block.page_count());
      if (!created) return created.error();
      bitmap = std::move(*created);
    }
    bitmaps.push_back(std::move(three));
  }
  std::shared_ptr<RamState> state(
      new RamState(std::move(memory), std::move(tracker), std::move(bitmaps)));
  if (auto attached = state->memory_->attach(state); !attached) return attached.error();
  return state;
}

Result<void> RamState::start() { return tracker_->start(); }

Result<void> RamState::collect_zero_pages() {
  std::vector<DirtyBitmap> zero_pages;
  for (const RamBlock& block : memory_->blocks()) {
    Result<DirtyBitmap> bitmap = DirtyBitmap::create(block.page_count());
    if (!bitmap) return bitmap.error();
    bitmap->set(PageRange{0, block.page_count()});
    zero_pages.push_back(std::move(*bitmap));
  }
  zero_pages_ = std::move(zero_pages);
  return {};
}

void RamState::keep_round_from_zero_pages() {
  for (uint32_t block = 0; block < zero_pages_.size(); ++block) {
    const DirtyBitmap& bits = round(block);
    const uint64_t words = bits.word_count();
    for (uint64_t index = bits.next_dirty_word(0, words); index < words;
         index = bits.next_dirty_word(index + 1, words)) {
      zero_pages_[block].word(index).fetch_and(~bits.word(index).load(std::memory_order_relaxed),
                                               std::memory_order_relaxed);
    }
  }
}

std::vector<BlockRun> RamState::take_zero_runs(size_t limit) {
  std::vector<BlockRun> runs;
  for (uint32_t block = 0; block < zero_pages_.size(); ++block) {
    DirtyBitmap& zero = zero_pages_[block];
    const uint64_t words = zero.word_count();
    uint64_t run_end = ~0ULL;  // of the last run, if it is one of this block
    for (uint64_t index = zero.next_dirty_word(0, words); index < words;
         index = zero.next_dirty_word(index + 1, words)) {
      // Room for whatever the word holds: it is taken as a whole.
      if (runs.size() + kPagesPerWord / 2 > limit) return runs;
      uint64_t bits = zero.word(index).exchange(0, std::memory_order_relaxed);
      while (bits != 0) {
        const auto low = static_cast<uint64_t>(std::countr_zero(bits));
        const auto count = static_cast<uint64_t>(std::countr_one(bits >> low));
        bits &= low + count == kPagesPerWord ? 0 : ~0ULL << (low + count);
        const uint64_t first = index * kPagesPerWord + low;
        if (first == run_end) {
          runs.back().pages.count += count;
        } else {
          runs.push_back({block, {first, count}});
        }
        run_end = first + count;
      }
    }
  }
  return runs;
}

Result<uint64_t> RamState::begin_round() {
  const size_t next = next_index();
  for (uint32_t block = 0; block < bitmaps_.size(); ++block) {
    DirtyBitmap& into = bitmaps_[block][next];
    const Result<uint64_t> collected =
        tracker_->collect(block, {0, into.page_count()}, into, nullptr);
    if (!collected) return collected.error();
  }
  for (std::array<DirtyBitmap, 3>& three : bitmaps_) three[previous_index()].clear();
  {
    // discard() marks and discards under this mutex. So a page whose mark is in the bitmap that
    // becomes the round here has been discarded by now, and is read after it.
    const std::lock_guard lock(flip_mutex_);
    current_ = next;
  }
  keep_round_from_zero_pages();
  uint64_t pages = 0;
  for (const std::array<DirtyBitmap, 3>& three : bitmaps_) {
    pages += three[next].count({0, three[next].page_count()});
  }
  return pages;
}

Result<uint64_t> RamState::extend_round() {
  uint64_t pages = 0;
  for (uint32_t block = 0; block < bitmaps_.size(); ++block) {
    DirtyBitmap& round = bitmaps_[block][current_];
    DirtyBitmap& next = bitmaps_[block][next_index()];
    {
      const std::lock_guard lock(flip_mutex_);  // as in begin_round(), against discard()
      const uint64_t words = next.word_count();
      for (uint64_t index = next.next_dirty_word(0, words); index < words;
           index = next.next_dirty_word(index + 1, words)) {
        round.word(index).fetch_or(next.word(index).exchange(0, std::memory_order_relaxed),
                                   std::memory_order_relaxed);
      }
    }
    const Result<uint64_t> collected =
        tracker_->collect(block, {0, round.page_count()}, round, nullptr);
    if (!collected) return collected.error();
    pages += round.count({0, round.page_count()});
  }
  keep_round_from_zero_pages();
  return pages;
}

Result<uint64_t> RamState::give_back(BegunRound which, std::span<const ReceivedPages> received) {
  if (auto fits = check_received(memory_->blocks(), received); !fits) return fits.error();
  const size_t given = which == BegunRound::kCurrent ? current_ : previous_index();
  uint64_t pages = 0;
  for (uint32_t block = 0; block < bitmaps_.size(); ++block) {
    DirtyBitmap& from = bitmaps_[block][given];
    DirtyBitmap& next = bitmaps_[block][next_index()];
    const uint64_t words = from.word_count();
    for (uint64_t index = from.next_dirty_word(0, words); index < words;
         index = from.next_dirty_word(index + 1, words)) {
      uint64_t bits = from.word(index).load(std::memory_order_relaxed);
      if (received[block]) bits &= ~word_of(*received[block], index);
      if (bits == 0) continue;
      next.word(index).fetch_or(bits, std::memory_order_relaxed);
      pages += static_cast<uint64_t>(std::popcount(bits));
    }
    from.clear();
  }
  return pages;
}

std::vector<Extent> RamState::plan(uint64_t target_dirty_bytes) const {
  const uint64_t target_pages = target_dirty_bytes / kPageSize;
  std::vector<Extent> extents;
  for (uint32_t block = 0; block < bitmaps_.size(); ++block) {
    const DirtyBitmap& bits = round(block);
    const uint64_t words = bits.word_count();
    uint64_t first = bits.next_dirty_word(0, words);
    while (first < words) {
      const uint64_t limit = std::min(words, first + kExtentMaxWords);
      uint64_t dirty = 0;
      uint64_t end = first;  // one past the last dirty word taken
      uint64_t index = first;
      while (index < limit) {
        const uint64_t word = bits.word(index).load(std::memory_order_relaxed);
        const uint64_t more = static_cast<uint64_t>(std::popcount(word));
        if (dirty > 0 && dirty + more > target_pages) break;
        dirty += more;
        end = index + 1;
        index = bits.next_dirty_word(end, limit);
      }
      const uint64_t first_page = first * kPagesPerWord;
      const uint64_t end_page = std::min(end * kPagesPerWord, bits.page_count());
      extents.push_back({block, first_page, end_page - first_page, dirty});
      first = index < limit ? index : bits.next_dirty_word(limit, words);
    }
  }
  return extents;
}

Result<void> RamState::late_collect(const Extent& extent) {
  DirtyBitmap& next = bitmaps_[extent.block][next_index()];
  const Result<uint64_t> collected = tracker_->collect(
      extent.block, {extent.first_page, extent.page_count}, next, &round(extent.block));
  if (!collected) return collected.error();
  return {};
}

void RamState::pin(bool pinned) {
  const std::lock_guard lock(flip_mutex_);
  pinned_ = pinned;
}

Result<void> RamState::discard(uint32_t block_index, PageRange range) {
  const RamBlock& block = memory_->blocks()[block_index];
  // The tracker need not see a discard (a hole punched into a memfd is no write), so the mark is
  // ours. It must be in `next` for a round that starts after the memory is gone: with the mark
  // before, the flip between the two would send the old content as the page's last; hence the
  // mutex around both. Channel threads that send the page right now send either content, and the
  // next round sends zeros. begin_round() holds the mutex for one assignment only.
  const std::lock_guard lock(flip_mutex_);
  if (pinned_) {
    return Error::make(ErrorCode::kState,
                       "discarding %llu pages of \"%s\" failed: the VMM promised to discard "
                       "nothing while it migrates; take `discards: false` back, or wait for the "
                       "end",
                       static_cast<unsigned long long>(range.count), block.idstr.c_str());
  }
  bitmaps_[block_index][next_index()].set(range);
  return block.mapping->discard({block.first_page + range.first, range.count});
}

Result<uint64_t> RamState::collect_into_next() {
  uint64_t pages = 0;
  for (uint32_t block = 0; block < bitmaps_.size(); ++block) {
    DirtyBitmap& next = bitmaps_[block][next_index()];
    const Result<uint64_t> collected =
        tracker_->collect(block, {0, next.page_count()}, next, nullptr);
    if (!collected) return collected.error();
    pages += next.count({0, next.page_count()});
  }
  return pages;
}

}  // namespace multifd
