// For whoever writes guest pages in user space, not in a system call: a full file system behind the
// memory must be an error, and not the signal (SIGBUS) that a store to it would raise.
#pragma once

#include <sys/uio.h>

#include "base/result.h"
#include "guest/mapping.h"

namespace multifd {

// Allocates the pages of the mapping that `run` covers. Does nothing where no file is behind them,
// or where the kernel has no such call (before Linux 5.14).
Result<void> prefault(const Mapping& mapping, const iovec& run);
// The same for whoever does not know what is behind the run, which need not begin with a page.
Result<void> prefault(const iovec& run);

}  // namespace multifd
