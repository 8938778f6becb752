#include "engine/connection.h"

#include <sys/socket.h>

#include <cerrno>

namespace multifd {

Result<void> may_try_again(const FailedSend& failed, const Syscalls& syscalls,
                           const std::atomic<bool>& stop) {
  if (stop.load(std::memory_order_relaxed)) return stopped();
  if (failed.cause == 0 || failed.cause == EINTR) return {};
  if (failed.cause == EAGAIN) {
    pollfd writable{failed.fd, POLLOUT, 0};
    syscalls.poll(&writable, 1, kPollMs);
    return {};
  }
  errno = failed.cause;
  return Error::from_errno(failed.syscall, "sending %zu bytes failed", failed.bytes);
}

void dissolve(int fd) {
  sockaddr unspecified{};
  unspecified.sa_family = AF_UNSPEC;
  ::connect(fd, &unspecified, sizeof unspecified);
}

}  // namespace multifd
