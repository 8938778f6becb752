#include "guest/prefault.h"

#include <sys/mman.h>

#include "guest/page.h"

namespace multifd {

Result<void> prefault(const Mapping& mapping, const iovec& run) {
  return mapping.reads_allocate() ? prefault(run) : Result<void>();
}

Result<void> prefault(const iovec& run) {
  const size_t within = reinterpret_cast<uintptr_t>(run.iov_base) % kPageSize;
  uint8_t* const first = static_cast<uint8_t*>(run.iov_base) - within;
  for (;;) {
    if (::madvise(first, run.iov_len + within, MADV_POPULATE_WRITE) == 0) return {};
    if (errno == EINTR || errno == EAGAIN) continue;
    if (errno == EINVAL) return {};  // not known to this kernel
    return Error::from_errno("madvise(MADV_POPULATE_WRITE)",
                             "writing to guest memory failed: is the file system that backs it "
                             "full?");
  }
}

}  // namespace multifd
