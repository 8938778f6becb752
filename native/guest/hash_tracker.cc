// The tracker for kernels without a dirty log and VMMs without one of their own: per page a hash of
// the bytes last *sent* (a hash taken when collecting would miss A -> B -> A around the copy).
// Reads all populated memory per collect. It keeps no log, it compares: a page whose content is not
// what the destination has stays dirty for every collect until that content was sent.
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <utility>
#include <vector>

#include "guest/dirty_tracker.h"
#include "guest/page_ops.h"
#include "guest/sparse_memory.h"

namespace multifd {

namespace {

constexpr uint64_t kPopulatedWindowPages = 1 << 16;  // asks for 256 MiB at a time
constexpr uint64_t kNeverSent = 0;                   // hash_page() never returns it

struct alignas(64) PageCopy {
  std::array<uint8_t, kPageSize> bytes;
};

// Of one block: eight bytes a page that was ever sent.
struct SentPages {
  SparseMemory memory;
  std::atomic<uint64_t>* hashes = nullptr;
  // Pages that are not zero at the destination: finds the absent ones among them without walking
  // the hashes of a sparse block.
  DirtyBitmap content;
};

class HashTracker final : public DirtyTracker {
 public:
  HashTracker(std::shared_ptr<GuestMemory> memory, std::vector<SentPages> sent, uint64_t key)
      : memory_(std::move(memory)), sent_(std::move(sent)), key_(key), zero_hash_(zero_hash(key)) {}

  [[nodiscard]] std::string_view name() const override { return "hash"; }
  [[nodiscard]] bool wants_sent_copies() const override { return true; }
  Result<void> start() override { return {}; }

  // With `except` (a late collect) there is nothing to do, and nothing is lost. A page in `except`
  // is about to be copied, hashed and sent: what it holds from then on is compared with that. A
  // page outside it that changed differs from what was last sent until it is sent again, so the
  // next round's collect finds it. Reading the extent twice would buy nothing.
  Result<uint64_t> collect(uint32_t block_index, PageRange range, DirtyBitmap& into,
                           const DirtyBitmap* except) override {
    uint64_t added = 0;
    if (except != nullptr) return added;
    const RamBlock& block = memory_->blocks()[block_index];
    std::vector<PageRange> touched;
    const uint64_t end = range.first + range.count;
    for (uint64_t first = range.first; first < end; first += kPopulatedWindowPages) {
      touched.clear();
      const PageRange window{first, std::min(kPopulatedWindowPages, end - first)};
      if (const Result<void> asked = block.populated(window, touched); !asked) {
        return asked.error();
      }
      uint64_t gap = window.first;
      for (const PageRange& stretch : touched) {
        added += collect_absent(block_index, {gap, stretch.first - gap}, into);
        added += collect_touched(block_index, stretch, into);
        gap = stretch.first + stretch.count;
      }
      added += collect_absent(block_index, {gap, window.first + window.count - gap}, into);
    }
    return added;
  }

  void sent(uint32_t block, uint64_t page, const uint8_t* copy) override {
    const uint64_t hash = copy == nullptr ? zero_hash_ : hash_page(copy, key_);
    SentPages& pages = sent_[block];
    // Relaxed: a page is sent by one thread in a round, and rounds are ordered by their sync.
    pages.hashes[page].store(hash, std::memory_order_relaxed);
    const uint64_t bit = 1ULL << (page % kPagesPerWord);
    std::atomic<uint64_t>& word = pages.content.word(page / kPagesPerWord);
    if (hash != zero_hash_) {
      word.fetch_or(bit, std::memory_order_relaxed);
    } else if ((word.load(std::memory_order_relaxed) & bit) != 0) {
      word.fetch_and(~bit, std::memory_order_relaxed);
    }
  }

 private:
  static uint64_t zero_hash(uint64_t key) {
    const PageCopy zero{};
    return hash_page(zero.bytes.data(), key);
  }

  // A populated page is dirty when its hash is not the one sent, or none was: a page of zeros
  // travels once, like every populated page.
  uint64_t collect_touched(uint32_t block_index, PageRange range, DirtyBitmap& into) const {
    const SentPages& pages = sent_[block_index];
    const uint8_t* const host = memory_->blocks()[block_index].host();
    PageCopy copy;
    uint64_t added = 0;
    for (uint64_t page = range.first; page < range.first + range.count; ++page) {
      const uint64_t before = pages.hashes[page].load(std::memory_order_relaxed);
      if (before != kNeverSent) {
        copy_page(copy.bytes.data(), host + page * kPageSize);
        if (hash_page(copy.bytes.data(), key_) == before) continue;
      }
      added += into.add({page, 1}, nullptr);
    }
    return added;
  }

  // An absent page reads as zero: dirty when the destination has content there.
  uint64_t collect_absent(uint32_t block_index, PageRange range, DirtyBitmap& into) const {
    if (range.count == 0) return 0;
    const DirtyBitmap& content = sent_[block_index].content;
    const uint64_t end = (range.first + range.count - 1) / kPagesPerWord + 1;
    uint64_t added = 0;
    for (uint64_t index = content.next_dirty_word(range.first / kPagesPerWord, end); index < end;
         index = content.next_dirty_word(index + 1, end)) {
      const uint64_t bits = content.word(index).load(std::memory_order_relaxed) &
                            DirtyBitmap::mask_in_word(range, index);
      added += into.add_word(index, bits, nullptr);
    }
    return added;
  }

  // Immutable after construction; hashes and content bits are shared atomics.
  const std::shared_ptr<GuestMemory> memory_;
  std::vector<SentPages> sent_;
  const uint64_t key_;
  const uint64_t zero_hash_;
};

}  // namespace

Result<std::unique_ptr<DirtyTracker>> make_hash_tracker(std::shared_ptr<GuestMemory> memory) {
  uint64_t key = 0;
  if (getrandom(&key, sizeof key, 0) != static_cast<ssize_t>(sizeof key)) {
    return Error::from_errno("getrandom", "cannot draw a secret key for the page hashes");
  }
  std::vector<SentPages> sent;
  for (const RamBlock& block : memory->blocks()) {
    SentPages pages;
    Result<SparseMemory> hashes = SparseMemory::create(block.page_count() * sizeof(uint64_t));
    if (!hashes) return hashes.error();
    Result<DirtyBitmap> content = DirtyBitmap::create(block.page_count());
    if (!content) return content.error();
    pages.memory = std::move(*hashes);
    pages.hashes = static_cast<std::atomic<uint64_t>*>(pages.memory.base());
    pages.content = std::move(*content);
    sent.push_back(std::move(pages));
  }
  return std::unique_ptr<DirtyTracker>(new HashTracker(std::move(memory), std::move(sent), key));
}

}  // namespace multifd
