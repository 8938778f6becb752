// What the guest room's tests share: memory of every kind, and a guest that writes to it. The
// guest's own accesses race with the code under test by design, and are annotated as page_ops is.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "guest/guest_memory.h"

namespace fixture {

using multifd::GuestMemory;
using multifd::kPageSize;
using multifd::Mapping;
using multifd::PageRange;
using multifd::RamBlock;

enum class Kind { kAnonymous, kHugePages, kMemfd, kFile };
inline constexpr Kind kKinds[] = {Kind::kAnonymous, Kind::kHugePages, Kind::kMemfd, Kind::kFile};

inline std::string name_of(Kind kind) {
  switch (kind) {
    case Kind::kAnonymous: return "anonymous";
    case Kind::kHugePages: return "huge-page";
    case Kind::kMemfd: return "memfd";
    case Kind::kFile: return "file";
  }
  return "";
}

inline std::shared_ptr<Mapping> make_mapping(Kind kind, size_t size_bytes) {
  const auto make = [&]() -> multifd::Result<std::shared_ptr<Mapping>> {
    switch (kind) {
      case Kind::kAnonymous: return Mapping::allocate(size_bytes, false);
      case Kind::kHugePages: return Mapping::allocate(size_bytes, true);
      case Kind::kMemfd: return Mapping::open_memfd("multifd-test", size_bytes);
      case Kind::kFile: break;
    }
    // In the working directory, not in /tmp: that may be a tmpfs, and the point is a real file.
    char path[] = "multifd-test-XXXXXX";
    const int fd = mkstemp(path);
    if (fd < 0) return multifd::Error::from_errno("mkstemp", "cannot create %s", path);
    close(fd);
    auto mapped = Mapping::open_file(path, size_bytes);
    unlink(path);
    return mapped;
  };
  auto mapping = make();
  CHECK_OK(mapping);
  return *mapping;
}

inline std::shared_ptr<GuestMemory> one_block(std::shared_ptr<Mapping> mapping) {
  const size_t size_bytes = mapping->size_bytes();
  auto memory = GuestMemory::create({RamBlock{"ram", std::move(mapping), 0, size_bytes}});
  CHECK_OK(memory);
  return *memory;
}

// The guest's writes: eight bytes at a time, as a virtual processor would.
__attribute__((no_sanitize("thread"))) inline void poke(uint8_t* at, uint64_t value) {
  *reinterpret_cast<volatile uint64_t*>(at) = value;
}
__attribute__((no_sanitize("thread"))) inline uint64_t peek(const uint8_t* at) {
  return *reinterpret_cast<const volatile uint64_t*>(at);
}
__attribute__((no_sanitize("thread"))) inline void fill_page(uint8_t* page, uint64_t value) {
  for (size_t at = 0; at < kPageSize; at += sizeof value) poke(page + at, value);
}

// The pages of `ranges` one by one, to compare with.
inline std::vector<uint64_t> pages_of(const std::vector<PageRange>& ranges) {
  std::vector<uint64_t> pages;
  for (const PageRange& range : ranges) {
    for (uint64_t i = 0; i < range.count; ++i) pages.push_back(range.first + i);
  }
  return pages;
}

inline std::vector<uint64_t> populated_pages(const Mapping& mapping) {
  std::vector<PageRange> ranges;
  CHECK_OK(mapping.populated({0, mapping.size_bytes() / kPageSize}, ranges));
  return pages_of(ranges);
}

}  // namespace fixture
