// What the kernel's page tables say about this process's memory: /proc/self/pagemap and its
// PAGEMAP_SCAN ioctl. Knows addresses and pages, nothing of mappings, blocks or rounds.
// One object, one fd, one owner; an open Pagemap may be used by several threads at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/kernel_compat.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "guest/page.h"

namespace multifd {

// One walk over [start, end). scan() moves `start`; the walk is over when it reaches `end`.
struct PagemapWalk {
  uint64_t start = 0;  // address
  uint64_t end = 0;    // address, exclusive
  uint64_t flags = 0;
  uint64_t category_inverted = 0;
  uint64_t category_mask = 0;
  uint64_t category_anyof_mask = 0;
  uint64_t return_mask = 0;
};

class Pagemap {
 public:
  static Result<Pagemap> open();

  // One PAGEMAP_SCAN call: fills up to `capacity` regions and returns how many. Fails with
  // kUnsupported where the kernel has no such call (before 6.7).
  Result<size_t> scan(PagemapWalk& walk, PagemapRegion* regions, size_t capacity) const;

  // Appends the touched ranges (pages from `base`, ascending): present or swapped. Pages that
  // were only ever read (mapped to the zero page) are left out where the kernel tells them apart.
  Result<void> populated(const uint8_t* base, PageRange asked,
                         std::vector<PageRange>& out) const;
  // Whether any page of the range is mapped by a huge page. Fails with kUnsupported where the
  // kernel has no PAGEMAP_SCAN.
  Result<bool> has_huge_pages(const uint8_t* base, PageRange asked) const;
  // The two ways behind populated(): the ioctl, and the table's entries for older kernels.
  Result<void> populated_by_scan(const uint8_t* base, PageRange asked,
                                 std::vector<PageRange>& out) const;
  Result<void> populated_by_entries(const uint8_t* base, PageRange asked,
                                    std::vector<PageRange>& out) const;

 private:
  explicit Pagemap(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

// Appends `range`, joining it to the last one when they touch; entries of `out` before index
// `floor` belong to somebody else and are left alone.
void append_range(std::vector<PageRange>& out, size_t floor, PageRange range);

}  // namespace multifd
