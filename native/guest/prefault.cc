#include "guest/prefault.h"

#include <sys/mman.h>

namespace multifd {

Result<void> prefault(const Mapping& mapping, const iovec& run) {
  if (!mapping.reads_allocate()) return {};
  for (;;) {
    if (::madvise(run.iov_base, run.iov_len, MADV_POPULATE_WRITE) == 0) return {};
    if (errno == EINTR || errno == EAGAIN) continue;
    if (errno == EINVAL) return {};  // not known to this kernel
    return Error::from_errno("madvise(MADV_POPULATE_WRITE)",
                             "writing to guest memory failed: is the file system that backs it "
                             "full?");
  }
}

}  // namespace multifd
