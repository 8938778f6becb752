// Who says which pages were written: the contract behind which the kernel (userfaultfd), the VMM's
// own log, or a hash per page stand. A tracker knows blocks and pages, never rounds or channels.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "base/result.h"
#include "guest/dirty_bitmap.h"
#include "guest/guest_memory.h"

namespace multifd {

class DirtyTracker {
 public:
  virtual ~DirtyTracker() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;  // "userfaultfd", "vmm", "hash"

  // Arms the tracker; call once. Afterwards the first collect() of a range returns every populated
  // page of it, and each later one every page written since the collect() before. Memory dropped
  // with RamState::discard() is not a write: discard() marks it.
  virtual Result<void> start() = 0;

  // Fetches and clears the dirty log of `range` of block `block`, atomically per page, and ORs it
  // into `into`, leaving out pages that are set in `except` (null: none). Copy a page only after
  // the call that reported it. Several threads may collect disjoint ranges at the same time.
  // Returns the number of pages ORed in that were not set before. A tracker that keeps no log (the
  // hash) answers a call with `except` with nothing: see hash_tracker.cc for why that loses none.
  virtual Result<uint64_t> collect(uint32_t block, PageRange range, DirtyBitmap& into,
                                   const DirtyBitmap* except) = 0;

  // True: pages must be copied, told to sent(), and that copy sent (the hash tracker).
  [[nodiscard]] virtual bool wants_sent_copies() const { return false; }
  // Called by the channel thread that is about to send `copy` as the content of the page. Null: it
  // sends a zero page (an absent page, or one that the zero test caught).
  virtual void sent(uint32_t block, uint64_t page, const uint8_t* copy);
};

// The kernel's log: userfaultfd with asynchronous write protection, Linux 6.7 or newer (arm64:
// 6.10). Fails with kUnsupported, and the reason as a sentence, where there is none. start() fails
// with kLimit (errno EBUSY) when another tracker, or anybody's userfaultfd, holds part of the
// memory.
Result<std::unique_ptr<DirtyTracker>> make_uffd_tracker(std::shared_ptr<GuestMemory> memory);
// A hash per page of the bytes sent; works everywhere, reads all populated memory per collect.
Result<std::unique_ptr<DirtyTracker>> make_hash_tracker(std::shared_ptr<GuestMemory> memory);

// Bits come from the VMM: by page, or ORed in as bytes (KVM_GET_DIRTY_LOG's layout: bit i of the
// little-endian bitmap is page first_page + i). Any thread; lock-free. Mark *after* the write that
// is to be seen. What lies outside the blocks is ignored.
class VmmDirtyLog {
 public:
  virtual ~VmmDirtyLog() = default;
  virtual void mark(uint32_t block, PageRange range) = 0;
  virtual void or_bytes(uint32_t block, uint64_t first_page, const uint8_t* bytes,
                        size_t byte_count) = 0;
};
struct VmmTracker {
  std::unique_ptr<DirtyTracker> tracker;
  std::shared_ptr<VmmDirtyLog> log;  // outlives the tracker: marks after its end go nowhere
};
Result<VmmTracker> make_vmm_tracker(std::shared_ptr<GuestMemory> memory);

}  // namespace multifd
