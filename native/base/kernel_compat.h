// Kernel constants that Debian 12's headers lack, each with the uapi header it comes from. The only
// place for such constants; features are probed at run time, never inferred from a version.
#pragma once

#include <time.h>  // linux/errqueue.h uses timespec without including it

#include <linux/errqueue.h>
#include <linux/io_uring.h>
#include <linux/sock_diag.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstdint>

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60  // asm-generic/socket.h
#endif
#ifndef SO_MEMINFO
#define SO_MEMINFO 55  // asm-generic/socket.h
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000  // linux/socket.h
#endif
#ifndef SO_EE_ORIGIN_ZEROCOPY
#define SO_EE_ORIGIN_ZEROCOPY 5  // linux/errqueue.h
#endif
#ifndef SO_EE_CODE_ZEROCOPY_COPIED
#define SO_EE_CODE_ZEROCOPY_COPIED 1  // linux/errqueue.h
#endif

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1  // linux/userfaultfd.h
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)  // linux/userfaultfd.h
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)  // linux/userfaultfd.h
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)  // linux/userfaultfd.h
#endif

namespace multifd {

// IORING_REGISTER_CLONE_BUFFERS, linux/io_uring.h (6.12). All zero but `source_fd`: every buffer.
struct CloneBuffersArgument {
  uint32_t source_fd;
  uint32_t flags;
  uint32_t source_offset;
  uint32_t destination_offset;
  uint32_t count;
  uint32_t reserved[3];
};
static_assert(sizeof(CloneBuffersArgument) == 32);

inline constexpr unsigned kRegisterCloneBuffers = 30;

// PAGEMAP_SCAN, linux/fs.h (6.7). Names of our own, so that newer headers cannot collide.
struct PagemapRegion {
  uint64_t start;  // address
  uint64_t end;    // address, exclusive
  uint64_t categories;
};

struct PagemapScanArgument {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;
  uint64_t vec;
  uint64_t vec_len;
  uint64_t max_pages;
  uint64_t category_inverted;
  uint64_t category_mask;
  uint64_t category_anyof_mask;
  uint64_t return_mask;
};
static_assert(sizeof(PagemapScanArgument) == 96);

inline constexpr unsigned long kPagemapScan = _IOWR('f', 16, PagemapScanArgument);
inline constexpr uint64_t kPageIsWritten = 1U << 1;
inline constexpr uint64_t kPageIsPresent = 1U << 3;
inline constexpr uint64_t kPageIsSwapped = 1U << 4;
inline constexpr uint64_t kPageIsPfnZero = 1U << 5;
inline constexpr uint64_t kPageIsHuge = 1U << 6;
inline constexpr uint64_t kScanWriteProtectMatching = 1U << 0;
inline constexpr uint64_t kScanCheckWriteProtectAsync = 1U << 1;

}  // namespace multifd
