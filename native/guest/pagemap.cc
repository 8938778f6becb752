// See pagemap.h. Facts: Documentation/admin-guide/mm/pagemap.rst, ioctl_pagemap_scan(2).
#include "guest/pagemap.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace multifd {

namespace {

constexpr uint64_t kEntryPresent = 1ULL << 63;
constexpr uint64_t kEntrySwapped = 1ULL << 62;
constexpr size_t kRegionsPerScan = 256;
constexpr size_t kEntriesPerRead = 512;

}  // namespace

void append_range(std::vector<PageRange>& out, size_t floor, PageRange range) {
  if (out.size() > floor && out.back().first + out.back().count == range.first) {
    out.back().count += range.count;
  } else {
    out.push_back(range);
  }
}

Result<Pagemap> Pagemap::open() {
  UniqueFd fd(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), Resource::kPagemapFd);
  if (!fd) {
    return Error::from_errno("open",
                             "cannot open /proc/self/pagemap, which tells touched memory from "
                             "untouched; mount /proc and keep the program dumpable");
  }
  return Pagemap(std::move(fd));
}

Result<size_t> Pagemap::scan(PagemapWalk& walk, PagemapRegion* regions, size_t capacity) const {
  PagemapScanArgument argument{};
  argument.size = sizeof argument;
  argument.flags = walk.flags;
  argument.start = walk.start;
  argument.end = walk.end;
  argument.vec = reinterpret_cast<uintptr_t>(regions);
  argument.vec_len = capacity;
  argument.category_inverted = walk.category_inverted;
  argument.category_mask = walk.category_mask;
  argument.category_anyof_mask = walk.category_anyof_mask;
  argument.return_mask = walk.return_mask;
  const int result = ioctl(fd_.get(), kPagemapScan, &argument);
  if (result < 0) {
    Error error = Error::from_errno("ioctl(PAGEMAP_SCAN)", "cannot scan the page tables");
    if (error.errno_value == ENOTTY || error.errno_value == EINVAL) {
      error.code = ErrorCode::kUnsupported;
    }
    return error;
  }
  const size_t count = static_cast<size_t>(result);
  // Fewer regions than asked for mean that the walk is complete, whatever walk_end says: it can
  // be stale. A full buffer means there may be more, and the last region's end is a safe place
  // to go on: what lies between it and walk_end did not match and is looked at once more.
  walk.start = count < capacity ? walk.end : regions[count - 1].end;
  return count;
}

Result<void> Pagemap::populated(const uint8_t* base, PageRange asked,
                                std::vector<PageRange>& out) const {
  Result<void> scanned = populated_by_scan(base, asked, out);
  if (!scanned && scanned.error().code == ErrorCode::kUnsupported) {
    return populated_by_entries(base, asked, out);
  }
  return scanned;
}

Result<void> Pagemap::populated_by_scan(const uint8_t* base, PageRange asked,
                                        std::vector<PageRange>& out) const {
  const size_t floor = out.size();
  const uint64_t origin = reinterpret_cast<uintptr_t>(base);
  std::array<PagemapRegion, kRegionsPerScan> regions;
  PagemapWalk walk;
  walk.start = origin + asked.first * kPageSize;
  walk.end = walk.start + asked.count * kPageSize;
  walk.category_inverted = kPageIsPfnZero;
  walk.category_mask = kPageIsPfnZero;  // inverted: not the zero page
  walk.category_anyof_mask = kPageIsPresent | kPageIsSwapped;
  walk.return_mask = kPageIsPresent;
  while (walk.start < walk.end) {
    const Result<size_t> count = scan(walk, regions.data(), regions.size());
    if (!count) return count.error();
    for (size_t i = 0; i < *count; ++i) {
      append_range(out, floor, {(regions[i].start - origin) / kPageSize,
                                (regions[i].end - regions[i].start) / kPageSize});
    }
  }
  return {};
}

Result<bool> Pagemap::has_huge_pages(const uint8_t* base, PageRange asked) const {
  PagemapRegion region;
  PagemapWalk walk;
  walk.start = reinterpret_cast<uintptr_t>(base) + asked.first * kPageSize;
  walk.end = walk.start + asked.count * kPageSize;
  walk.category_mask = kPageIsHuge;
  walk.return_mask = kPageIsHuge;
  const Result<size_t> count = scan(walk, &region, 1);
  if (!count) return count.error();
  return *count > 0;
}

Result<void> Pagemap::populated_by_entries(const uint8_t* base, PageRange asked,
                                           std::vector<PageRange>& out) const {
  const size_t floor = out.size();
  const uint64_t origin_page = reinterpret_cast<uintptr_t>(base) / kPageSize;
  std::array<uint64_t, kEntriesPerRead> entries;
  const uint64_t end = asked.first + asked.count;
  for (uint64_t page = asked.first; page < end;) {
    const size_t wanted = std::min<uint64_t>(entries.size(), end - page) * sizeof(uint64_t);
    const off_t offset = static_cast<off_t>((origin_page + page) * sizeof(uint64_t));
    const ssize_t got = pread(fd_.get(), entries.data(), wanted, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Error::from_errno("pread", "cannot read /proc/self/pagemap");
    const size_t count = static_cast<size_t>(got) / sizeof(uint64_t);
    if (count == 0) {
      return Error::make(ErrorCode::kChannel,
                         "/proc/self/pagemap ended at page %llu of a mapping, expected %llu more "
                         "entries; was the memory unmapped?",
                         static_cast<unsigned long long>(page),
                         static_cast<unsigned long long>(end - page));
    }
    // A page mapped to the zero page counts as touched here: telling it apart needs its frame
    // number, which ordinary users may not see. Too much is safe, it only costs a zero test.
    for (size_t i = 0; i < count; ++i) {
      if ((entries[i] & (kEntryPresent | kEntrySwapped)) != 0) {
        append_range(out, floor, {page + i, 1});
      }
    }
    page += count;
  }
  return {};
}

}  // namespace multifd
