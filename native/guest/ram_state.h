// The source's book of a migration's RAM: which pages this round carries, which the next will, and
// which the round before carried, for as long as the peer may not have taken it. Owns the tracker.
// It decides nothing: TypeScript asks for a round and a plan, channel threads scan. Nobody clears
// bits of a round until the second round after it begins, or it is given back. Costs three bits per
// page of the guest, in memory that stays unpopulated where no bit was ever set.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "guest/dirty_tracker.h"

namespace multifd {

// Pages of one RAM block.
struct BlockRun {
  uint32_t block = 0;
  PageRange pages;
};

// Pages of one RAM block that the peer has: bit i of the little-endian bitmap is page i; none: it
// has nothing of the block. Its length is that of the block's bitmap, in whole 64-bit words.
using ReceivedPages = std::optional<std::vector<uint8_t>>;

class RamState {
 public:
  enum class BegunRound : uint8_t { kCurrent, kPrevious };

  static Result<std::shared_ptr<RamState>> create(std::shared_ptr<GuestMemory> memory,
                                                  std::unique_ptr<DirtyTracker> tracker);

  [[nodiscard]] GuestMemory& memory() const { return *memory_; }
  [[nodiscard]] DirtyTracker& tracker() const { return *tracker_; }

  // Arms the tracker; call once, before the first round.
  Result<void> start();
  // previous := round; round := next | collect(everything); next := nothing. No extent may be in
  // work. What `previous` was is forgotten: who wants to resume begins a round only when the peer
  // acknowledged the one before the last. Returns the number of pages of the round. Any one thread
  // (a libuv worker); discard() may run meanwhile. After an error the rounds before still stand and
  // nothing is lost: it may be called again.
  Result<uint64_t> begin_round();
  // round |= next | collect(everything), before any extent of the round is in work: for a round
  // that was begun, and becomes the last one because the guest was stopped instead of sending it.
  // Returns the number of pages of the round now.
  Result<uint64_t> extend_round();
  // For a round whose pages may not have arrived, when its connection is gone:
  // next |= pages of the round without those in `received` (one entry per block); then that round
  // is empty. No extent may be in work. A page that was written since it was sent is in `next` or
  // still with the tracker, so it goes again though it was received. Returns how many pages were
  // given back; kLimit, with nothing changed, where `received` does not fit the blocks.
  Result<uint64_t> give_back(BegunRound which, std::span<const ReceivedPages> received);
  // Cuts the round into extents of at most target_dirty_bytes of dirty pages, each within one
  // block, at most 1 GiB of address space, on kPagesPerWord boundaries; skips clean words. An
  // extent holds at least one word, so up to 256 KiB of dirty pages however low the target.
  [[nodiscard]] std::vector<Extent> plan(uint64_t target_dirty_bytes) const;

  // Channel threads, before they read the first page of the extent: pages of it written meanwhile
  // that are in the round travel once; all others are ORed into the next round.
  Result<void> late_collect(const Extent& extent);
  [[nodiscard]] const DirtyBitmap& round(uint32_t block) const {
    return bitmaps_[block][current_];
  }

  // For a peer that takes zero pages as words on the main channel only (QEMU before 9.0): packets
  // leave them out, and they are collected here. Before the first round, in which pages that it
  // does not hold (absent ones) count as zero, too.
  Result<void> collect_zero_pages();
  [[nodiscard]] bool collects_zero_pages() const { return !zero_pages_.empty(); }
  // Channel threads: a page of the round is zero.
  void found_zero(uint32_t block, uint64_t page) { zero_pages_[block].set(page); }
  // Hands over zero pages as runs, at most `limit`, in ascending order; none is handed over twice.
  // Any one thread, also while extents of the round are in work; empty when there are no more now.
  [[nodiscard]] std::vector<BlockRun> take_zero_runs(size_t limit);

  // While pinned the VMM may drop nothing: the kernel holds the pages (registered buffers) and
  // would send the old ones. A discard() fails with kState.
  void pin(bool pinned);

  // Collects everything into the next round, and returns how many pages that round would carry now
  // (tests: none after the guest stopped and the last round was sent).
  Result<uint64_t> collect_into_next();

 private:
  friend class GuestMemory;
  // The VMM drops pages while migrating (GuestMemory::discard, which checked the range): marks them
  // dirty for the next round, and discards. Any thread, at any time. On an error the pages are
  // dirty and their content is undefined.
  Result<void> discard(uint32_t block, PageRange range);
  RamState(std::shared_ptr<GuestMemory> memory, std::unique_ptr<DirtyTracker> tracker,
           std::vector<std::array<DirtyBitmap, 3>> bitmaps);
  const std::shared_ptr<GuestMemory> memory_;
  const std::unique_ptr<DirtyTracker> tracker_;
  // What is in the round will be sent, or found zero, anew.
  void keep_round_from_zero_pages();
  // The three change places in a circle: what was the round is the previous one, the next one is
  // the round, and the previous one, cleared, is the next.
  [[nodiscard]] size_t next_index() const { return (current_ + 1) % 3; }
  [[nodiscard]] size_t previous_index() const { return (current_ + 2) % 3; }
  std::vector<std::array<DirtyBitmap, 3>> bitmaps_;  // [block][current_ = round, ...]
  // By block; none unless collect_zero_pages() was called. Words are shared atomics.
  std::vector<DirtyBitmap> zero_pages_;
  // Changed by begin_round() only, while no extent is in work, under flip_mutex_. Channel threads
  // read it without: they got their extent after the flip. discard() reads it under the mutex.
  size_t current_ = 0;
  std::mutex flip_mutex_;  // discard() against the flip; channel threads never take it
  bool pinned_ = false;    // under flip_mutex_
};

}  // namespace multifd
