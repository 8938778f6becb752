#include "guest/file_write.h"

#include <unistd.h>

namespace multifd {

Result<void> write_to_file(const Mapping& mapping, uint64_t offset,
                           std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t written =
        ::pwrite(mapping.fd(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      return Error::from_errno("pwrite",
                               "writing to guest memory failed: is the file system that backs it "
                               "full?");
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
  return {};
}

}  // namespace multifd
