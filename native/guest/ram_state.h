// The source's book of a migration's RAM: which pages this round carries, and which the next.
// Owns the tracker. It decides nothing: TypeScript asks for a round and a plan, channel threads
// scan. Bits of a round stay set until the next round begins.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
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
  // number of pages of the round. Any one thread (a libuv worker).
  Result<uint64_t> begin_round();
  // Cuts the round into extents of at most target_dirty_bytes of dirty pages, each within one
  // block, at most 1 GiB of address space, on kPagesPerWord boundaries; skips clean words.
  [[nodiscard]] std::vector<Extent> plan(uint64_t target_dirty_bytes) const;

  // Channel threads, before they read the first page of the extent: pages of it written meanwhile
  // that are in the round travel once; all others are ORed into the next round.
  Result<void> late_collect(const Extent& extent);
  [[nodiscard]] const DirtyBitmap& round(uint32_t block) const {
    return bitmaps_[block][current_];
  }

  // The VMM drops pages while migrating: marks them dirty for the next round, then discards.
  Result<void> discard(uint32_t block, PageRange range);
  // What collect() would find now, and puts it into the next round (tests: nothing after the stop).
  Result<uint64_t> collect_into_next();

 private:
  RamState(std::shared_ptr<GuestMemory> memory, std::unique_ptr<DirtyTracker> tracker,
           std::vector<std::array<DirtyBitmap, 2>> bitmaps);
  const std::shared_ptr<GuestMemory> memory_;
  const std::unique_ptr<DirtyTracker> tracker_;
  std::vector<std::array<DirtyBitmap, 2>> bitmaps_;  // [block][current_ = round, other = next]
  size_t current_ = 0;  // changed by begin_round() only, while no channel thread reads
};

}  // namespace multifd
