// Pages into a file that is mapped, by a system call. Into pages that are not there yet that is
// twice as fast as storing through the mapping (0.35 instead of 0.70 s of CPU per GiB on tmpfs, 0.3
// instead of 0.7 and more on ext4): no fault per page, nothing cleared only to be overwritten.
// And a full file system is an error, where a store would raise a signal.
#pragma once

#include <cstdint>
#include <span>

#include "base/result.h"
#include "guest/mapping.h"

namespace multifd {

// `offset` counts from the start of the mapping; the range lies inside it, and the mapping has a
// file behind it.
Result<void> write_to_file(const Mapping& mapping, uint64_t offset,
                           std::span<const uint8_t> bytes);

}  // namespace multifd
