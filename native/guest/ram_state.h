// The source's book of a migration's RAM: which pages this round carries, and which the next.
// Owns the tracker. It decides nothing: TypeScript asks for a round and a plan, channel threads
// scan. Bits of a round stay set until the next round begins.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/result.h"
#include "guest/dirty_tracker.h"

namespace multifd {

class RamState {
 public:
  static Result<std::shared_ptr<RamState>> create(std::shared_ptr<GuestMemory> memory,
                                                  std::unique_ptr<DirtyTracker> tracker);

  [[nodiscard]] GuestMemory& memory() const { return *memory_; }
  [[nodiscard]] DirtyTracker& tracker() const { return *tracker_; }

  // Arms the tracker; call once, before the first round.
  Result<void> start();
  // round := next | collect(everything); next := nothing. No extent may be in work. Returns the
  // number of pages of the round. Any one thread (a libuv worker); discard() may run meanwhile.
  // After an error the round before still stands and nothing is lost: it may be called again.
  Result<uint64_t> begin_round();
  // round |= next | collect(everything), before any extent of the round is in work: for a round
  // that was begun, and becomes the last one because the guest was stopped instead of sending it.
  // Returns the number of pages of the round now.
  Result<uint64_t> extend_round();
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
           std::vector<std::array<DirtyBitmap, 2>> bitmaps);
  const std::shared_ptr<GuestMemory> memory_;
  const std::unique_ptr<DirtyTracker> tracker_;
  std::vector<std::array<DirtyBitmap, 2>> bitmaps_;  // [block][current_ = round, other = next]
  // Changed by begin_round() only, while no extent is in work, under flip_mutex_. Channel threads
  // read it without: they got their extent after the flip. discard() reads it under the mutex.
  size_t current_ = 0;
  std::mutex flip_mutex_;  // discard() against the flip; channel threads never take it
  bool pinned_ = false;    // under flip_mutex_
};

}  // namespace multifd
