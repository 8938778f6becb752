// The page: the unit every bitmap, packet and tracker counts in.
#pragma once

#include <cstddef>
#include <cstdint>

namespace multifd {

// Target page size in bytes (x86 and arm64 Linux guests; QEMU TARGET_PAGE_SIZE).
inline constexpr size_t kPageSize = 4096;
// Pages per bitmap word; extents begin and end on this boundary, so that no two threads share one.
inline constexpr uint64_t kPagesPerWord = 64;

struct PageRange {
  uint64_t first = 0;
  uint64_t count = 0;
};

// A run of guest pages within one RAM block that holds at most a set amount of dirty bytes.
struct Extent {
  uint32_t block = 0;        // index into GuestMemory::blocks()
  uint64_t first_page = 0;   // multiple of kPagesPerWord
  uint64_t page_count = 0;   // multiple of kPagesPerWord, or up to the end of the block
  uint64_t dirty_pages = 0;  // set bits of the round bitmap in it
};

}  // namespace multifd
