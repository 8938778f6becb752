// DirtyBitmap against a plain vector of bools.
#include "guest/dirty_bitmap.h"

#include <utility>
#include <vector>

#include "check.h"

namespace {

using namespace multifd;

DirtyBitmap make(uint64_t page_count) {
  auto bitmap = DirtyBitmap::create(page_count);
  CHECK_OK(bitmap);
  return std::move(*bitmap);
}

TEST("setting and counting ranges agrees with one bool per page") {
  check::Random random(check::seed());
  for (const uint64_t page_count : {1, 63, 64, 65, 511, 512, 513, 3000}) {
    DirtyBitmap bitmap = make(page_count);
    DirtyBitmap except = make(page_count);
    for (uint64_t page = 0; page < page_count; page += 3) except.set(page);
    std::vector<bool> model(page_count);
    for (int step = 0; step < 200; ++step) {
      const uint64_t first = random.below(page_count);
      const PageRange range{first, random.below(page_count - first + 1)};
      const bool with_except = random.below(2) == 0;
      uint64_t expected_added = 0;
      uint64_t expected_count = 0;
      for (uint64_t page = first; page < first + range.count; ++page) {
        if (!(with_except && page % 3 == 0) && !model[page]) {
          model[page] = true;
          ++expected_added;
        }
        if (model[page]) ++expected_count;
      }
      CHECK_EQ(bitmap.add(range, with_except ? &except : nullptr), expected_added);
      CHECK_EQ(bitmap.count(range), expected_count);
      if (step % 50 == 49) {
        for (uint64_t page = 0; page < page_count; ++page) {
          CHECK_EQ(bitmap.test(page), static_cast<bool>(model[page]));
        }
        bitmap.clear();
        std::fill(model.begin(), model.end(), false);
        CHECK_EQ(bitmap.count({0, page_count}), 0U);
      }
    }
  }
}

TEST("the next dirty word is found from every start, and not beyond the end") {
  DirtyBitmap bitmap = make(100 * kPagesPerWord);
  for (const uint64_t dirty : {0, 7, 8, 41, 99}) {
    bitmap.clear();
    bitmap.set(dirty * kPagesPerWord + 5);
    for (uint64_t from = 0; from <= 100; ++from) {
      CHECK_EQ(bitmap.next_dirty_word(from, 100), from <= dirty ? dirty : 100);
      if (from <= dirty) CHECK_EQ(bitmap.next_dirty_word(from, dirty), dirty);
    }
  }
}

TEST("a moved bitmap leaves nothing behind and no mapping leaks") {
  const int64_t before = census(Resource::kMapping).load();
  {
    DirtyBitmap first = make(1000);
    first.set({10, 20});
    DirtyBitmap second = std::move(first);
    CHECK_EQ(second.count({0, 1000}), 20U);
    CHECK_EQ(first.page_count(), 0U);
    DirtyBitmap third = make(10);
    third = std::move(second);
    CHECK_EQ(third.count({0, 1000}), 20U);
    CHECK_EQ(census(Resource::kMapping).load(), before + 1);
  }
  CHECK_EQ(census(Resource::kMapping).load(), before);
}

}  // namespace
