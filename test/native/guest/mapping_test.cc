// Mapping and Pagemap over every kind of memory: what is populated, and how it is given back.
#include "guest/mapping.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "guest_fixture.h"
#include "guest/page_ops.h"
#include "guest/pagemap.h"

namespace {

using namespace multifd;
using fixture::Kind;
using fixture::make_mapping;
using Pages = std::vector<uint64_t>;

constexpr size_t kMiB = 1 << 20;

bool contains_all(const Pages& all, const Pages& wanted) {
  return std::includes(all.begin(), all.end(), wanted.begin(), wanted.end());
}

void check_populated_and_discard(Kind kind) {
  const auto mapping = make_mapping(kind, 16 * kMiB);
  CHECK_EQ(reinterpret_cast<uintptr_t>(mapping->base()) % (2 * kMiB), 0U);
  CHECK(fixture::populated_pages(*mapping).empty());
  const Pages touched{0, 1, 5, 1024, 1030, 4095};
  for (const uint64_t page : touched) fixture::poke(mapping->base() + page * kPageSize + 8, 7);
  // Huge pages and large folios populate their neighbours, too.
  CHECK(contains_all(fixture::populated_pages(*mapping), touched));
  if (kind == Kind::kAnonymous || kind == Kind::kMemfd) {
    CHECK(fixture::populated_pages(*mapping) == touched);
  }
  std::vector<PageRange> clipped{{77, 1}};
  CHECK_OK(mapping->populated({1, 1029}, clipped));
  CHECK_EQ(clipped.front().first, 77U);
  CHECK_EQ(clipped[1].first, 1U);
  CHECK(clipped.back().first + clipped.back().count <= 1030);
  CHECK_OK(mapping->discard({1, 1024}));
  const Pages left = fixture::populated_pages(*mapping);
  CHECK(contains_all(left, {0, 1030, 4095}));
  // Around a page that stays, khugepaged may make a huge page again at any time: zeros, populated.
  if (kind != Kind::kHugePages) {
    CHECK(!contains_all(left, {1}));
    CHECK(!contains_all(left, {1024}));
  }
  CHECK_EQ(fixture::peek(mapping->base() + kPageSize + 8), 0U);
  CHECK_EQ(fixture::peek(mapping->base() + 1024 * kPageSize + 8), 0U);
  CHECK_EQ(fixture::peek(mapping->base() + 1030 * kPageSize + 8), 7U);
  CHECK_OK(mapping->discard({0, 4096}));
  CHECK(!contains_all(fixture::populated_pages(*mapping), {0}));
  CHECK_EQ(fixture::peek(mapping->base() + 4095 * kPageSize + 8), 0U);
  CHECK(!mapping->discard({4000, 97}));
  CHECK(!mapping->discard({~0ULL, 2}));
  CHECK(!mapping->populated({0, 4097}, clipped));
}

[[maybe_unused]] const bool added = [] {
  for (const Kind kind : fixture::kKinds) {
    check::add("touched pages are reported and discarded in " + fixture::name_of(kind) + " memory",
               [kind] { check_populated_and_discard(kind); });
  }
  return true;
}();

TEST("asking what is populated makes nothing resident, nor does it count pages only read") {
  const auto mapping = make_mapping(Kind::kAnonymous, 4 * kMiB);
  fixture::poke(mapping->base() + 7 * kPageSize, 1);
  uint64_t sum = 0;
  for (size_t page = 0; page < 512; ++page) {
    sum += fixture::peek(mapping->base() + page * kPageSize);
  }
  CHECK_EQ(sum, 1U);
  CHECK(contains_all(fixture::populated_pages(*mapping), {7}));
  auto pagemap = Pagemap::open();
  CHECK_OK(pagemap);
  std::vector<PageRange> scanned;
  const auto result = pagemap->populated_by_scan(mapping->base(), {0, 1024}, scanned);
  if (!result) SKIP(result.error().detail);
  CHECK(fixture::pages_of(scanned) == Pages{7});
}

TEST("the table's entries tell the same as the scan, for kernels without it") {
  check::Random random(check::seed());
  const auto mapping = make_mapping(Kind::kAnonymous, 32 * kMiB);
  Pages touched;
  for (uint64_t page = 0; page < 8192; page += 1 + random.below(random.below(8) == 0 ? 900 : 4)) {
    fixture::poke(mapping->base() + page * kPageSize, 1);
    touched.push_back(page);
  }
  auto pagemap = Pagemap::open();
  CHECK_OK(pagemap);
  std::vector<PageRange> entries;
  CHECK_OK(pagemap->populated_by_entries(mapping->base(), {0, 8192}, entries));
  CHECK(fixture::pages_of(entries) == touched);
  std::vector<PageRange> clipped;
  CHECK_OK(pagemap->populated_by_entries(mapping->base(), {100, 700}, clipped));
  for (const uint64_t page : fixture::pages_of(clipped)) CHECK(page >= 100 && page < 800);
  std::vector<PageRange> scanned;
  const auto result = pagemap->populated_by_scan(mapping->base(), {0, 8192}, scanned);
  if (!result) SKIP(result.error().detail);
  CHECK(fixture::pages_of(scanned) == touched);
}

TEST("a memory file is extended sparsely, keeps its content and is never shrunk") {
  char path[] = "multifd-test-XXXXXX";
  const int fd = mkstemp(path);
  CHECK(fd >= 0);
  CHECK_EQ(ftruncate(fd, 8 * kMiB), 0);
  {
    auto mapping = Mapping::open_file(path, 4 * kMiB);
    CHECK_OK(mapping);
    fixture::poke((*mapping)->base() + 4096, 99);
  }
  struct stat status {};
  CHECK_EQ(fstat(fd, &status), 0);
  CHECK_EQ(status.st_size, static_cast<off_t>(8 * kMiB));
  auto mapping = Mapping::open_file(path, 16 * kMiB);
  CHECK_OK(mapping);
  CHECK_EQ(fixture::peek((*mapping)->base() + 4096), 99U);
  CHECK_EQ(fstat(fd, &status), 0);
  CHECK_EQ(status.st_size, static_cast<off_t>(16 * kMiB));
  CHECK(static_cast<size_t>(status.st_blocks) * 512 < kMiB);
  close(fd);
  unlink(path);
}

TEST("what is remembered of data gives way to discards and writes: any order gives what is there") {
  check::Random random(check::seed());
  for (const Kind kind : {Kind::kMemfd, Kind::kFile}) {
    const auto mapping = make_mapping(kind, kMiB);
    std::vector<bool> touched(256);
    for (int step = 0; step < 600; ++step) {
      const PageRange range{random.below(256), 0};
      const uint64_t count = 1 + random.below(std::min<uint64_t>(64, 256 - range.first));
      const uint64_t act = random.below(4);
      if (act == 0) CHECK_OK(mapping->discard({range.first, count}));
      for (uint64_t page = range.first; page < range.first + count; ++page) {
        if (act == 0) touched[page] = false;
        if (act != 1) continue;
        fixture::poke(mapping->base() + page * kPageSize, page + 1);
        touched[page] = true;
      }
      std::vector<PageRange> found;
      CHECK_OK(mapping->populated({range.first, count}, found));
      const Pages pages = fixture::pages_of(found);
      for (uint64_t page = range.first; page < range.first + count; ++page) {
        const bool there = std::ranges::binary_search(pages, page);
        if (touched[page]) CHECK(there);
        // A file system may keep more than it must; a memfd keeps pages.
        if (!touched[page] && kind == Kind::kMemfd) CHECK(!there);
      }
      CHECK(pages.empty() || (pages.front() >= range.first && pages.back() < range.first + count));
    }
  }
}

TEST("a file opened read-only is as it was, must be there, and cannot be given back") {
  char path[] = "multifd-test-XXXXXX";
  const int fd = mkstemp(path);
  CHECK(fd >= 0);
  CHECK_EQ(ftruncate(fd, 8 * kMiB), 0);
  CHECK_EQ(pwrite(fd, "a", 1, 100 * kPageSize), 1);
  CHECK_EQ(fchmod(fd, 0400), 0);
  auto mapping = Mapping::open_file_read_only(path, 8 * kMiB);
  CHECK_OK(mapping);
  CHECK((*mapping)->read_only());
  CHECK(fixture::populated_pages(**mapping) == Pages{100});
  CHECK_EQ(unsigned{(*mapping)->base()[100 * kPageSize]}, unsigned{'a'});
  const auto discarded = (*mapping)->discard({100, 1});
  CHECK(!discarded);
  CHECK(discarded.error().code == ErrorCode::kState);
  CHECK(fixture::populated_pages(**mapping) == Pages{100});
  CHECK(!Mapping::open_file_read_only(path, 8 * kMiB + kPageSize));
  CHECK(!Mapping::open_file_read_only("/nowhere/at/all", kMiB));
  CHECK(!Mapping::open_file_read_only("/dev/null", kMiB));
  close(fd);
  unlink(path);
}

TEST("external memory is used in place, given back and not unmapped") {
  void* const outer =
      mmap(nullptr, 8 * kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(outer != MAP_FAILED);
  uint8_t* const base = static_cast<uint8_t*>(outer) + 3 * kPageSize;
  {
    auto mapping = Mapping::external(base, 4 * kMiB);
    CHECK_OK(mapping);
    fixture::poke(base + 5 * kPageSize, 1);
    CHECK(contains_all(fixture::populated_pages(**mapping), {5}));
    CHECK_OK((*mapping)->discard({0, 1024}));
    CHECK_EQ(fixture::peek(base + 5 * kPageSize), 0U);
  }
  fixture::poke(base, 1);
  CHECK(!Mapping::external(base + 1, kPageSize));
  CHECK(!Mapping::external(nullptr, kPageSize));
  CHECK(!Mapping::external(base, kPageSize + 1));
  CHECK_EQ(munmap(outer, 8 * kMiB), 0);
}

TEST("memory that cannot be given back, being locked, is written with zeros") {
  const auto mapping = make_mapping(Kind::kAnonymous, kMiB);
  fixture::fill_page(mapping->base() + 3 * kPageSize, 0x1111);
  fixture::fill_page(mapping->base() + 4 * kPageSize, 0x2222);
  if (mlock(mapping->base(), kMiB) != 0) SKIP("mlock is refused here (RLIMIT_MEMLOCK)");
  CHECK_OK(mapping->discard({3, 1}));
  CHECK(is_zero_page_scalar(mapping->base() + 3 * kPageSize));
  CHECK_EQ(fixture::peek(mapping->base() + 4 * kPageSize), 0x2222U);
}

TEST("impossible mappings are refused with a sentence, and leave nothing behind") {
  const int64_t mappings = census(Resource::kMapping).load();
  const int64_t fds = census(Resource::kBackingFd).load() + census(Resource::kPagemapFd).load();
  for (const size_t size : {size_t{0}, size_t{1}, kPageSize + 1, size_t{1} << 60}) {
    CHECK(!Mapping::allocate(size, false));
    CHECK(!Mapping::open_memfd("x", size));
  }
  const auto directory = Mapping::open_file(".", kMiB);
  CHECK(!directory);
  CHECK(std::strlen(directory.error().detail) > 10);
  CHECK(!Mapping::open_file("/nowhere/at/all", kMiB));
  CHECK(!Mapping::open_file("/dev/null", kMiB));
  { const auto kept = make_mapping(Kind::kMemfd, kMiB); }
  { const auto kept = make_mapping(Kind::kAnonymous, kMiB); }
  CHECK_EQ(census(Resource::kMapping).load(), mappings);
  CHECK_EQ(census(Resource::kBackingFd).load() + census(Resource::kPagemapFd).load(), fds);
}

}  // namespace
