// One bit per page of a block. Words are atomic, because late collects of several channel threads
// and the VMM's own calls set bits at the same time. Backed by an anonymous mapping that stays
// unpopulated where nobody sets a bit: a bitmap of 1 TiB costs what its dirty parts cost.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/census.h"
#include "base/result.h"
#include "guest/page.h"

namespace multifd {

class DirtyBitmap {
 public:
  DirtyBitmap() = default;
  static Result<DirtyBitmap> create(uint64_t page_count);
  DirtyBitmap(DirtyBitmap&& other) noexcept;
  DirtyBitmap& operator=(DirtyBitmap&& other) noexcept;
  ~DirtyBitmap();

  [[nodiscard]] uint64_t page_count() const { return page_count_; }
  [[nodiscard]] uint64_t word_count() const { return word_count_; }
  [[nodiscard]] std::atomic<uint64_t>& word(uint64_t index) const { return words_[index]; }

  [[nodiscard]] bool test(uint64_t page) const {
    return (words_[page / kPagesPerWord].load(std::memory_order_relaxed) >>
            (page % kPagesPerWord)) & 1;
  }
  void set(uint64_t page) {
    words_[page / kPagesPerWord].fetch_or(1ULL << (page % kPagesPerWord),
                                          std::memory_order_relaxed);
  }
  void set(PageRange range);
  [[nodiscard]] uint64_t count(PageRange range) const;
  // Clears everything; gives the memory back instead of writing zeros where that is cheaper.
  void clear();

 private:
  std::atomic<uint64_t>* words_ = nullptr;
  uint64_t page_count_ = 0;
  uint64_t word_count_ = 0;
};

}  // namespace multifd
