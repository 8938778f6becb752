// One bit per page of a block. Words are atomic, because late collects of several channel threads
// and the VMM's own calls set bits at the same time. Backed by an anonymous mapping that stays
// unpopulated where nobody sets a bit: a bitmap of 1 TiB costs what its dirty parts cost.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/result.h"
#include "guest/page.h"
#include "guest/sparse_memory.h"

namespace multifd {

class DirtyBitmap {
 public:
  DirtyBitmap() = default;
  static Result<DirtyBitmap> create(uint64_t page_count);
  DirtyBitmap(DirtyBitmap&& other) noexcept;
  DirtyBitmap& operator=(DirtyBitmap&& other) noexcept;
  ~DirtyBitmap() = default;

  [[nodiscard]] uint64_t page_count() const { return page_count_; }
  [[nodiscard]] uint64_t word_count() const { return word_count_; }
  [[nodiscard]] std::atomic<uint64_t>& word(uint64_t index) const { return words_[index]; }
  // The bits of `range` that lie in word `index`; the range must touch that word.
  [[nodiscard]] static uint64_t mask_in_word(PageRange range, uint64_t index);

  [[nodiscard]] bool test(uint64_t page) const {
    return (words_[page / kPagesPerWord].load(std::memory_order_relaxed) >>
            (page % kPagesPerWord)) & 1;
  }
  void set(uint64_t page) {
    words_[page / kPagesPerWord].fetch_or(1ULL << (page % kPagesPerWord),
                                          std::memory_order_relaxed);
  }
  void set(PageRange range) { add(range, nullptr); }
  // Sets the bits of `range` that are clear in `except` (null: all of them) and returns how many
  // of them were clear here before.
  uint64_t add(PageRange range, const DirtyBitmap* except);
  // The same for one word: `bits` of word `index`.
  uint64_t add_word(uint64_t index, uint64_t bits, const DirtyBitmap* except);
  [[nodiscard]] uint64_t count(PageRange range) const;
  // First word of [index, end) that has a bit set; `end` if none. end is at most word_count().
  [[nodiscard]] uint64_t next_dirty_word(uint64_t index, uint64_t end) const;
  // Clears everything, writing only where a bit is set: untouched parts stay unpopulated. (Giving
  // the memory back instead costs a page fault per touched page in the next round.)
  void clear();

 private:
  SparseMemory memory_;
  std::atomic<uint64_t>* words_ = nullptr;
  uint64_t page_count_ = 0;
  uint64_t word_count_ = 0;
};

}  // namespace multifd
