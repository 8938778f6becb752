// The word loops of DirtyBitmap. All accesses are relaxed: a bit orders nothing by itself; who
// hands a bitmap or an extent from thread to thread brings the ordering (a queue, a join).
#include "guest/dirty_bitmap.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace multifd {

namespace {

constexpr uint64_t kWordsPerStep = 8;  // one cache line

}  // namespace

Result<DirtyBitmap> DirtyBitmap::create(uint64_t page_count) {
  DirtyBitmap bitmap;
  bitmap.page_count_ = page_count;
  bitmap.word_count_ = (page_count + kPagesPerWord - 1) / kPagesPerWord;
  Result<SparseMemory> memory =
      SparseMemory::create(std::max<uint64_t>(bitmap.word_count_, 1) * sizeof(uint64_t));
  if (!memory) return memory.error();
  bitmap.memory_ = std::move(*memory);
  // Zeroed memory is an array of zero atomics: std::atomic<uint64_t> has no state but its value.
  static_assert(std::atomic<uint64_t>::is_always_lock_free);
  static_assert(sizeof(std::atomic<uint64_t>) == sizeof(uint64_t));
  bitmap.words_ = static_cast<std::atomic<uint64_t>*>(bitmap.memory_.base());
  return bitmap;
}

DirtyBitmap::DirtyBitmap(DirtyBitmap&& other) noexcept
    : memory_(std::move(other.memory_)),
      words_(std::exchange(other.words_, nullptr)),
      page_count_(std::exchange(other.page_count_, 0)),
      word_count_(std::exchange(other.word_count_, 0)) {}

DirtyBitmap& DirtyBitmap::operator=(DirtyBitmap&& other) noexcept {
  if (this != &other) {
    memory_ = std::move(other.memory_);
    words_ = std::exchange(other.words_, nullptr);
    page_count_ = std::exchange(other.page_count_, 0);
    word_count_ = std::exchange(other.word_count_, 0);
  }
  return *this;
}

uint64_t DirtyBitmap::mask_in_word(PageRange range, uint64_t index) {
  const uint64_t word_first = index * kPagesPerWord;
  const uint64_t end = range.first + range.count;
  const uint64_t low = range.first > word_first ? range.first - word_first : 0;
  const uint64_t high = std::min(end - word_first, kPagesPerWord);  // exclusive, 1..64
  return (~0ULL << low) & (~0ULL >> (kPagesPerWord - high));
}

uint64_t DirtyBitmap::add_word(uint64_t index, uint64_t bits, const DirtyBitmap* except) {
  if (except != nullptr) bits &= ~except->words_[index].load(std::memory_order_relaxed);
  if (bits == 0) return 0;
  const uint64_t before = words_[index].fetch_or(bits, std::memory_order_relaxed);
  return static_cast<uint64_t>(std::popcount(bits & ~before));
}

uint64_t DirtyBitmap::add(PageRange range, const DirtyBitmap* except) {
  if (range.count == 0) return 0;
  uint64_t added = 0;
  const uint64_t last = (range.first + range.count - 1) / kPagesPerWord;
  for (uint64_t index = range.first / kPagesPerWord; index <= last; ++index) {
    added += add_word(index, mask_in_word(range, index), except);
  }
  return added;
}

uint64_t DirtyBitmap::count(PageRange range) const {
  if (range.count == 0) return 0;
  uint64_t counted = 0;
  const uint64_t end = (range.first + range.count - 1) / kPagesPerWord + 1;
  uint64_t index = next_dirty_word(range.first / kPagesPerWord, end);
  while (index < end) {
    const uint64_t bits = words_[index].load(std::memory_order_relaxed);
    counted += static_cast<uint64_t>(std::popcount(bits & mask_in_word(range, index)));
    index = next_dirty_word(index + 1, end);
  }
  return counted;
}

uint64_t DirtyBitmap::next_dirty_word(uint64_t index, uint64_t end) const {
  const auto word = [this](uint64_t at) { return words_[at].load(std::memory_order_relaxed); };
  while (index < end && index % kWordsPerStep != 0) {
    if (word(index) != 0) return index;
    ++index;
  }
  while (index + kWordsPerStep <= end) {
    uint64_t any = 0;
    for (uint64_t step = 0; step < kWordsPerStep; ++step) any |= word(index + step);
    if (any != 0) break;
    index += kWordsPerStep;
  }
  while (index < end && word(index) == 0) ++index;
  return std::min(index, end);
}

void DirtyBitmap::clear() {
  for (uint64_t index = next_dirty_word(0, word_count_); index < word_count_;
       index = next_dirty_word(index + 1, word_count_)) {
    words_[index].store(0, std::memory_order_relaxed);
  }
}

}  // namespace multifd
