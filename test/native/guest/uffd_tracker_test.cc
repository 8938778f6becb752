// What only the kernel's tracker has: holes that must stay unarmed, ranges within larger mappings,
// a second tracker, refusals.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "guest/ram_state.h"
#include "guest_fixture.h"

namespace {

using namespace multifd;
using fixture::Kind;
using fixture::make_mapping;

std::unique_ptr<DirtyTracker> make(const std::shared_ptr<GuestMemory>& memory) {
  auto tracker = make_uffd_tracker(memory);
  if (!tracker && tracker.error().code == ErrorCode::kUnsupported) SKIP(tracker.error().detail);
  CHECK_OK(tracker);
  return std::move(*tracker);
}

// One line of /proc/self/status in KiB: page tables (VmPTE).
uint64_t status_kib(const char* field) {
  std::FILE* const file = std::fopen("/proc/self/status", "re");
  CHECK(file != nullptr);
  char line[256];
  unsigned long long value = 0;
  while (std::fgets(line, sizeof line, file) != nullptr) {
    if (std::strncmp(line, field, std::strlen(field)) == 0) {
      value = std::strtoull(line + std::strlen(field) + 1, nullptr, 10);
    }
  }
  std::fclose(file);
  return value;
}

void leaves_holes_alone(Kind kind) {
  const uint64_t size_bytes = 64ULL << 30;
  const auto mapping = make_mapping(kind, size_bytes);
  const auto memory = fixture::one_block(mapping);
  auto created = RamState::create(memory, make(memory));
  CHECK_OK(created);
  RamState& state = **created;
  std::vector<uint64_t> touched;
  for (uint64_t page = 0; page < size_bytes / kPageSize; page += 524288 * 3 + 17) {
    fixture::poke(mapping->base() + page * kPageSize, 1);
    touched.push_back(page);
  }
  CHECK(fixture::populated_pages(*mapping) == touched);
  const uint64_t tables_kib = status_kib("VmPTE:");
  CHECK_OK(state.start());
  auto pages = state.begin_round();
  CHECK_OK(pages);
  CHECK_EQ(*pages, touched.size());
  const std::vector<Extent> extents = state.plan(16 << 20);
  CHECK_EQ(extents.size(), touched.size());
  for (const Extent& extent : extents) CHECK_OK(state.late_collect(extent));
  fixture::poke(mapping->base() + touched[2] * kPageSize, 2);
  fixture::poke(mapping->base() + 12345 * kPageSize, 2);
  pages = state.begin_round();
  CHECK_OK(pages);
  CHECK_EQ(*pages, 2U);
  CHECK(state.round(0).test(12345));
  CHECK(fixture::populated_pages(*mapping).size() == touched.size() + 1);
  // Arming the holes would cost 128 MiB of page tables; the bitmaps' own are allowed for, and a
  // sanitizer's.
  CHECK(status_kib("VmPTE:") < tables_kib + 4096);
}

[[maybe_unused]] const bool added = [] {
  for (const Kind kind : {Kind::kAnonymous, Kind::kMemfd, Kind::kFile}) {
    check::add("userfaultfd: 64 GiB of sparse " + fixture::name_of(kind) +
                   " memory stay unarmed and absent",
               [kind] { leaves_holes_alone(kind); });
  }
  return true;
}();

// What came into a memfd another way (pwrite, a receiver's readv, an earlier program) was never in
// our page tables; it is populated all the same.
void finds_what_the_page_tables_lack(Kind kind) {
  const auto mapping = make_mapping(kind, 2048 * kPageSize);
  const std::vector<uint8_t> bytes(600 * kPageSize, 0x5a);
  CHECK_EQ(pwrite(mapping->fd(), bytes.data(), bytes.size(), 100 * kPageSize),
           static_cast<ssize_t>(bytes.size()));
  const auto memory = fixture::one_block(mapping);
  const auto tracker = make(memory);
  CHECK_OK(tracker->start());
  auto into = DirtyBitmap::create(2048);
  CHECK_OK(into);
  auto collected = tracker->collect(0, {0, 2048}, *into, nullptr);
  CHECK_OK(collected);
  CHECK_EQ(into->count({100, 600}), 600U);
  into->clear();
  collected = tracker->collect(0, {0, 2048}, *into, nullptr);
  CHECK_OK(collected);
  CHECK_EQ(*collected, 0U);
  // Armed by markers only; a write must be seen, and a write after the page was reclaimed, too.
  fixture::poke(mapping->base() + 150 * kPageSize, 1);
  fixture::poke(mapping->base() + 160 * kPageSize, 1);
  CHECK_EQ(madvise(mapping->base() + 160 * kPageSize, kPageSize, MADV_PAGEOUT), 0);
  collected = tracker->collect(0, {0, 2048}, *into, nullptr);
  CHECK_OK(collected);
  CHECK_EQ(*collected, 2U);
  CHECK(into->test(150));
  CHECK(into->test(160));
}

TEST("userfaultfd: content that was never in the page tables is found in a memfd") {
  finds_what_the_page_tables_lack(Kind::kMemfd);
}
TEST("userfaultfd: content that was never in the page tables is found in a file") {
  finds_what_the_page_tables_lack(Kind::kFile);
}

TEST("userfaultfd: a block inside a larger mapping is tracked, its neighbours are not") {
  void* const outer = mmap(nullptr, 300 * kPageSize, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(outer != MAP_FAILED);
  uint8_t* const base = static_cast<uint8_t*>(outer) + 100 * kPageSize;
  {
    auto mapping = Mapping::external(base, 100 * kPageSize);
    CHECK_OK(mapping);
    const auto memory = fixture::one_block(*mapping);
    const auto tracker = make(memory);
    CHECK_OK(tracker->start());
    auto into = DirtyBitmap::create(100);
    CHECK_OK(into);
    for (const int64_t page : {-1, 0, 99, 100}) {
      fixture::poke(base + page * static_cast<int64_t>(kPageSize), 1);
    }
    auto collected = tracker->collect(0, {0, 100}, *into, nullptr);
    CHECK_OK(collected);
    CHECK(into->test(0) && into->test(99));
    into->clear();
    fixture::poke(base + 50 * kPageSize, 1);
    collected = tracker->collect(0, {0, 100}, *into, nullptr);
    CHECK_OK(collected);
    CHECK_EQ(*collected, 1U);
    CHECK(into->test(50));
  }
  CHECK_EQ(munmap(outer, 300 * kPageSize), 0);
}

TEST("userfaultfd: a second tracker over the same memory is refused until the first is gone") {
  const auto mapping = make_mapping(Kind::kAnonymous, 100 * kPageSize);
  const int64_t fds = census(Resource::kUserfaultFd).load();
  const auto memory = fixture::one_block(mapping);
  // The second one's first block is free: it must be released again when the second block is not.
  auto overlapping = GuestMemory::create({{"free", make_mapping(Kind::kMemfd, kPageSize), 0,
                                           kPageSize},
                                          {"taken", mapping, 50, 50 * kPageSize}});
  CHECK_OK(overlapping);
  auto first = make(memory);
  CHECK_OK(first->start());
  {
    const auto second = make(*overlapping);
    const auto refused = second->start();
    CHECK(!refused);
    CHECK(refused.error().code == ErrorCode::kLimit);
    CHECK_EQ(refused.error().errno_value, EBUSY);
    CHECK(std::strstr(refused.error().detail, "\"taken\"") != nullptr);
  }
  fixture::poke(mapping->base(), 1);
  auto into = DirtyBitmap::create(100);
  CHECK_OK(into);
  CHECK_OK(first->collect(0, {0, 100}, *into, nullptr));
  CHECK(into->test(0));
  first = nullptr;
  const auto third = make(*overlapping);
  CHECK_OK(third->start());
  CHECK_EQ(census(Resource::kUserfaultFd).load(), fds + 1);
}

TEST("userfaultfd: a new tracker over memory that one tracked before reports all of it") {
  const auto mapping = make_mapping(Kind::kMemfd, 100 * kPageSize);
  for (uint64_t page = 0; page < 100; ++page) fixture::poke(mapping->base() + page * kPageSize, 1);
  const auto memory = fixture::one_block(mapping);
  for (int time = 0; time < 2; ++time) {
    const auto tracker = make(memory);
    CHECK_OK(tracker->start());
    auto into = DirtyBitmap::create(100);
    CHECK_OK(into);
    const auto collected = tracker->collect(0, {0, 100}, *into, nullptr);
    CHECK_OK(collected);
    CHECK_EQ(*collected, 100U);
  }
}

// Write protection that outlives the tracker would cost the guest a fault per page.
TEST("userfaultfd: a tracker that is gone leaves no page protected") {
  constexpr uint64_t kEntryWriteProtected = 1ULL << 57;
  const auto mapping = make_mapping(Kind::kAnonymous, 100 * kPageSize);
  fixture::poke(mapping->base() + 50 * kPageSize, 1);
  const int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  const auto is_protected = [&] {
    uint64_t entry = 0;
    const uint64_t page = reinterpret_cast<uintptr_t>(mapping->base()) / kPageSize + 50;
    CHECK_EQ(pread(fd, &entry, sizeof entry, static_cast<off_t>(page * sizeof entry)),
             static_cast<ssize_t>(sizeof entry));
    return (entry & kEntryWriteProtected) != 0;
  };
  {
    const auto tracker = make(fixture::one_block(mapping));
    CHECK_OK(tracker->start());
    auto into = DirtyBitmap::create(100);
    CHECK_OK(into);
    CHECK_OK(tracker->collect(0, {0, 100}, *into, nullptr));
    CHECK(is_protected());
  }
  CHECK(!is_protected());
  close(fd);
}

TEST("userfaultfd: memory that is mapped anew while tracked is an error, not a silent loss") {
  void* const base = mmap(nullptr, 100 * kPageSize, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(base != MAP_FAILED);
  {
    auto mapping = Mapping::external(base, 100 * kPageSize);
    CHECK_OK(mapping);
    const auto memory = fixture::one_block(*mapping);
    const auto tracker = make(memory);
    CHECK_OK(tracker->start());
    CHECK(mmap(static_cast<uint8_t*>(base) + 10 * kPageSize, kPageSize, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
    fixture::poke(static_cast<uint8_t*>(base) + 10 * kPageSize, 1);
    auto into = DirtyBitmap::create(100);
    CHECK_OK(into);
    const auto collected = tracker->collect(0, {0, 100}, *into, nullptr);
    CHECK(!collected);
    CHECK_EQ(collected.error().errno_value, EPERM);
    CHECK(std::strstr(collected.error().detail, "not tracked any more") != nullptr);
  }
  CHECK_EQ(munmap(base, 100 * kPageSize), 0);
}

// In a child: the filter cannot be taken off again. Returns the child's exit status.
int refused_with(uint32_t errno_value, const char* expected) {
  const auto memory = fixture::one_block(make_mapping(Kind::kAnonymous, kPageSize));
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    sock_filter rules[] = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_userfaultfd},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | errno_value},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
    };
    sock_fprog program{4, rules};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) _exit(77);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) _exit(77);
    const auto tracker = make_uffd_tracker(memory);
    if (tracker || tracker.error().code != ErrorCode::kUnsupported) _exit(1);
    _exit(std::strstr(tracker.error().detail, expected) != nullptr ? 0 : 2);
  }
  int status = 0;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) SKIP("seccomp filters cannot be installed here");
  return WEXITSTATUS(status);
}

TEST("userfaultfd: a refusal says who refuses and what to use instead") {
  CHECK_EQ(refused_with(EPERM, "seccomp"), 0);
  CHECK_EQ(refused_with(ENOSYS, "no userfaultfd"), 0);
  CHECK_EQ(refused_with(EINVAL, "Linux 6.7"), 0);
}

}  // namespace
