// Dirty bits that the VMM sets itself: one pending bitmap per block, shared by the VMM's log and
// the tracker. Knows nothing of how the VMM notices writes. A mark is a release, a collect an
// acquire: whoever collects a bit sees the write that was made before it was marked.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "guest/dirty_tracker.h"

namespace multifd {

namespace {

constexpr uint64_t kPopulatedWindowPages = 1 << 16;  // asks for 256 MiB at a time

class PendingLog final : public VmmDirtyLog {
 public:
  explicit PendingLog(std::vector<DirtyBitmap> pending) : pending_(std::move(pending)) {}

  void mark(uint32_t block, PageRange range) override {
    if (closed_.load(std::memory_order_relaxed) || block >= pending_.size()) return;
    const uint64_t page_count = pending_[block].page_count();
    if (range.first >= page_count || range.count == 0) return;
    range.count = std::min(range.count, page_count - range.first);
    const uint64_t last = (range.first + range.count - 1) / kPagesPerWord;
    for (uint64_t index = range.first / kPagesPerWord; index <= last; ++index) {
      mark_word(block, index, DirtyBitmap::mask_in_word(range, index));
    }
  }

  void or_bytes(uint32_t block, uint64_t first_page, const uint8_t* bytes,
                size_t byte_count) override {
    if (closed_.load(std::memory_order_relaxed) || block >= pending_.size()) return;
    const uint64_t page_count = pending_[block].page_count();
    for (size_t at = 0; at < byte_count; at += sizeof(uint64_t)) {
      uint64_t bits = 0;
      std::memcpy(&bits, bytes + at, std::min(sizeof bits, byte_count - at));
      if constexpr (std::endian::native == std::endian::big) bits = __builtin_bswap64(bits);
      if (bits == 0) continue;
      const uint64_t page = first_page + at * 8;
      if (page < first_page || page >= page_count) return;
      if (page_count - page < kPagesPerWord) bits &= ~0ULL >> (kPagesPerWord - (page_count - page));
      const uint64_t shift = page % kPagesPerWord;
      mark_word(block, page / kPagesPerWord, bits << shift);
      if (shift != 0) mark_word(block, page / kPagesPerWord + 1, bits >> (kPagesPerWord - shift));
    }
  }

  // Takes the bits of `mask` in one word.
  uint64_t take(uint32_t block, uint64_t index, uint64_t mask) {
    std::atomic<uint64_t>& word = pending_[block].word(index);
    // A look first, so that a clean bitmap is only read (and stays unpopulated).
    if ((word.load(std::memory_order_relaxed) & mask) == 0) return 0;
    // Partners: the releases in mark_word().
    if (mask == ~0ULL) return word.exchange(0, std::memory_order_acquire);
    return word.fetch_and(~mask, std::memory_order_acquire) & mask;
  }

  [[nodiscard]] const DirtyBitmap& pending(uint32_t block) const { return pending_[block]; }
  void close() { closed_.store(true, std::memory_order_relaxed); }

 private:
  void mark_word(uint32_t block, uint64_t index, uint64_t bits) {
    // Partner: the acquire in take(). A bit that is set already is set again on purpose: skipping
    // it would leave this write without an order before the collect that takes the bit.
    if (bits != 0) pending_[block].word(index).fetch_or(bits, std::memory_order_release);
  }

  // Immutable after construction; the words inside are shared atomics.
  std::vector<DirtyBitmap> pending_;
  // Shared atomic: no tracker reads the bits any more.
  std::atomic<bool> closed_{false};
};

class VmmDirtyTracker final : public DirtyTracker {
 public:
  VmmDirtyTracker(std::shared_ptr<GuestMemory> memory, std::shared_ptr<PendingLog> log)
      : memory_(std::move(memory)), log_(std::move(log)) {}
  ~VmmDirtyTracker() override { log_->close(); }

  [[nodiscard]] std::string_view name() const override { return "vmm"; }

  // What is populated now is pending. What gets populated later is a write, and the VMM marks it.
  Result<void> start() override {
    std::vector<PageRange> ranges;
    for (uint32_t index = 0; index < memory_->blocks().size(); ++index) {
      const RamBlock& block = memory_->blocks()[index];
      for (uint64_t first = 0; first < block.page_count(); first += kPopulatedWindowPages) {
        ranges.clear();
        const PageRange window{first,
                               std::min(kPopulatedWindowPages, block.page_count() - first)};
        if (const Result<void> asked = block.populated(window, ranges); !asked) return asked;
        for (const PageRange& range : ranges) log_->mark(index, range);
      }
    }
    return {};
  }

  Result<uint64_t> collect(uint32_t block, PageRange range, DirtyBitmap& into,
                           const DirtyBitmap* except) override {
    uint64_t added = 0;
    if (range.count == 0) return added;
    const DirtyBitmap& pending = log_->pending(block);
    const uint64_t end = (range.first + range.count - 1) / kPagesPerWord + 1;
    for (uint64_t index = pending.next_dirty_word(range.first / kPagesPerWord, end); index < end;
         index = pending.next_dirty_word(index + 1, end)) {
      const uint64_t taken = log_->take(block, index, DirtyBitmap::mask_in_word(range, index));
      if (taken != 0) added += into.add_word(index, taken, except);
    }
    return added;
  }

 private:
  const std::shared_ptr<GuestMemory> memory_;
  const std::shared_ptr<PendingLog> log_;
};

}  // namespace

Result<VmmTracker> make_vmm_tracker(std::shared_ptr<GuestMemory> memory) {
  std::vector<DirtyBitmap> pending;
  for (const RamBlock& block : memory->blocks()) {
    Result<DirtyBitmap> bitmap = DirtyBitmap::create(block.page_count());
    if (!bitmap) return bitmap.error();
    pending.push_back(std::move(*bitmap));
  }
  auto log = std::make_shared<PendingLog>(std::move(pending));
  VmmTracker made;
  made.tracker = std::make_unique<VmmDirtyTracker>(std::move(memory), log);
  made.log = std::move(log);
  return made;
}

}  // namespace multifd
