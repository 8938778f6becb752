// The kernel's dirty log: userfaultfd write protection that the kernel resolves by itself
// (WP_ASYNC), read and re-armed with PAGEMAP_SCAN. Knows nothing of rounds. Holes are never armed:
// arming one costs page tables for memory nobody uses, in every scan. Facts: userfaultfd(2),
// ioctl_pagemap_scan(2).
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "base/kernel_compat.h"
#include "base/unique_fd.h"
#include "guest/dirty_tracker.h"
#include "guest/pagemap.h"

namespace multifd {

namespace {

constexpr size_t kRegionsPerScan = 256;  // 6 KiB on the stack of a channel thread
constexpr uint64_t kFeatures =
    UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;

Error unsupported(const char* syscall, const char* sentence) {
  Error error = Error::from_errno(syscall, "%s", sentence);
  error.code = ErrorCode::kUnsupported;
  return error;
}

Result<UniqueFd> open_userfaultfd() {
  const long fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  if (fd >= 0) return UniqueFd(static_cast<int>(fd), Resource::kUserfaultFd);
  switch (errno) {
    case ENOSYS:
      return unsupported("userfaultfd",
                         "this kernel has no userfaultfd (CONFIG_USERFAULTFD, or a seccomp filter "
                         "hides it); use the vmm or the hash tracker");
    case EPERM:
    case EACCES:
      return unsupported("userfaultfd",
                         "userfaultfd is forbidden here, by a container's seccomp filter, a "
                         "security module or vm.unprivileged_userfaultfd; allow it, or use the "
                         "vmm or the hash tracker");
    case EINVAL:
      return unsupported("userfaultfd",
                         "this kernel's userfaultfd has no user mode (before Linux 5.11), tracking "
                         "needs Linux 6.7; use the vmm or the hash tracker");
    default:
      return Error::from_errno("userfaultfd", "cannot open a userfaultfd");
  }
}

Result<void> ask_for_features(const UniqueFd& fd) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = kFeatures;
  if (ioctl(fd.get(), UFFDIO_API, &api) == 0) return {};
  return unsupported("ioctl(UFFDIO_API)",
                     "this kernel's userfaultfd has no asynchronous write protection (Linux 6.7 "
                     "on x86-64 and arm64); use the vmm or the hash tracker");
}

// A scan of one page of our own stack that changes nothing.
Result<void> probe_scan(const Pagemap& pagemap) {
  PagemapRegion region{};
  PagemapWalk walk;
  walk.start = reinterpret_cast<uintptr_t>(&region) / kPageSize * kPageSize;
  walk.end = walk.start + kPageSize;
  walk.category_anyof_mask = kPageIsPresent | kPageIsSwapped;
  walk.return_mask = kPageIsPresent;
  const Result<size_t> scanned = pagemap.scan(walk, &region, 1);
  if (scanned) return {};
  Error error = scanned.error();
  if (error.code != ErrorCode::kUnsupported) return error;
  errno = error.errno_value;
  return unsupported("ioctl(PAGEMAP_SCAN)",
                     "this kernel cannot report written pages (PAGEMAP_SCAN, Linux 6.7); use the "
                     "vmm or the hash tracker");
}

class UffdTracker final : public DirtyTracker {
 public:
  UffdTracker(std::shared_ptr<GuestMemory> memory, UniqueFd fd, Pagemap pagemap)
      : memory_(std::move(memory)), fd_(std::move(fd)), pagemap_(std::move(pagemap)) {}

  ~UffdTracker() override {
    // Closing the fd would do as well, were it the last one: a child between fork() and exec()
    // holds another, and the next tracker would find the memory taken.
    for (size_t index = 0; index < registered_; ++index) {
      uffdio_range range = range_of(memory_->blocks()[index]);
      ioctl(fd_.get(), UFFDIO_UNREGISTER, &range);
    }
  }

  [[nodiscard]] std::string_view name() const override { return "userfaultfd"; }

  // Registers only. A page that was never armed counts as written, so the first scan of a range
  // reports what is populated, and arms it.
  Result<void> start() override {
    while (registered_ < memory_->blocks().size()) {
      const RamBlock& block = memory_->blocks()[registered_];
      uffdio_register request{};
      request.range = range_of(block);
      request.mode = UFFDIO_REGISTER_MODE_WP;
      if (ioctl(fd_.get(), UFFDIO_REGISTER, &request) != 0) return refusal(block);
      ++registered_;
    }
    return {};
  }

  Result<uint64_t> collect(uint32_t block_index, PageRange range, DirtyBitmap& into,
                           const DirtyBitmap* except) override {
    const RamBlock& block = memory_->blocks()[block_index];
    PagemapWalk walk;
    walk.flags = kScanWriteProtectMatching | kScanCheckWriteProtectAsync;
    walk.category_mask = kPageIsWritten;
    walk.return_mask = kPageIsWritten;
    if (!block.mapping->reads_allocate()) {
      // Private anonymous memory: what is neither present nor swapped is a hole.
      walk.category_anyof_mask = kPageIsPresent | kPageIsSwapped;
      return scan(block, range, walk, into, except);
    }
    // Shared memory: the file knows the holes. The page table does not: a written page that was
    // reclaimed has an empty entry, which only the plain mask reports.
    uint64_t added = 0;
    const uint64_t end = block.first_page + range.first + range.count;
    PageRange asked{block.first_page + range.first, range.count};
    while (asked.count > 0) {
      Result<PageRange> data = block.mapping->next_data(asked);
      if (!data) return data.error();
      if (data->count == 0) break;
      const PageRange stretch{data->first - block.first_page, data->count};
      const Result<uint64_t> scanned = scan(block, stretch, walk, into, except);
      if (!scanned) return scanned;
      added += *scanned;
      asked.first = data->first + data->count;
      asked.count = end - asked.first;
    }
    return added;
  }

 private:
  static uffdio_range range_of(const RamBlock& block) {
    uffdio_range range{};
    range.start = reinterpret_cast<uintptr_t>(block.host());
    range.len = block.used_length;
    return range;
  }

  static Error refusal(const RamBlock& block) {
    Error error = Error::from_errno("ioctl(UFFDIO_REGISTER)",
                                    "cannot track writes to RAM block \"%s\"",
                                    block.idstr.c_str());
    if (error.errno_value == EBUSY) {
      const Error busy = Error::make(
          ErrorCode::kLimit,
          "RAM block \"%s\" is tracked already, by another migration or another userfaultfd of "
          "this program; memory can have one tracker at a time",
          block.idstr.c_str());
      error = busy;
      error.errno_value = EBUSY;
      error.syscall = "ioctl(UFFDIO_REGISTER)";
    } else if (error.errno_value == EINVAL) {
      error.code = ErrorCode::kUnsupported;
    }
    return error;
  }

  Result<uint64_t> scan(const RamBlock& block, PageRange range, PagemapWalk walk,
                        DirtyBitmap& into, const DirtyBitmap* except) const {
    const uint64_t origin = reinterpret_cast<uintptr_t>(block.host());
    std::array<PagemapRegion, kRegionsPerScan> regions;
    walk.start = origin + range.first * kPageSize;
    walk.end = walk.start + range.count * kPageSize;
    uint64_t added = 0;
    while (walk.start < walk.end) {
      const Result<size_t> count = pagemap_.scan(walk, regions.data(), regions.size());
      if (!count) return failed_scan(block, count.error());
      for (size_t i = 0; i < *count; ++i) {
        added += into.add({(regions[i].start - origin) / kPageSize,
                           (regions[i].end - regions[i].start) / kPageSize},
                          except);
      }
    }
    return added;
  }

  static Error failed_scan(const RamBlock& block, const Error& cause) {
    if (cause.errno_value != EPERM) return cause;
    Error error = Error::make(ErrorCode::kChannel,
                              "RAM block \"%s\" is not tracked any more: its memory was unmapped, "
                              "moved or mapped anew while migrating; the migration cannot go on",
                              block.idstr.c_str());
    error.errno_value = EPERM;
    error.syscall = "ioctl(PAGEMAP_SCAN)";
    return error;
  }

  // Immutable after start().
  const std::shared_ptr<GuestMemory> memory_;
  const UniqueFd fd_;
  const Pagemap pagemap_;
  size_t registered_ = 0;  // blocks from the front that are registered
};

}  // namespace

Result<std::unique_ptr<DirtyTracker>> make_uffd_tracker(std::shared_ptr<GuestMemory> memory) {
  Result<UniqueFd> fd = open_userfaultfd();
  if (!fd) return fd.error();
  if (const Result<void> features = ask_for_features(*fd); !features) return features.error();
  Result<Pagemap> pagemap = Pagemap::open();
  if (!pagemap) return pagemap.error();
  if (const Result<void> probed = probe_scan(*pagemap); !probed) return probed.error();
  return std::unique_ptr<DirtyTracker>(
      new UffdTracker(std::move(memory), std::move(*fd), std::move(*pagemap)));
}

}  // namespace multifd
