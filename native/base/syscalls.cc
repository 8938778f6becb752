#include "base/syscalls.h"

#include <sys/syscall.h>
#include <unistd.h>

namespace multifd {
namespace {

ssize_t send_guest(int fd, const msghdr* message, int flags) {
  return ::syscall(SYS_sendmsg, fd, message, flags);
}

ssize_t receive_guest(int fd, msghdr* message, int flags) {
  return ::syscall(SYS_recvmsg, fd, message, flags);
}

ssize_t receive_error_queue(int fd, msghdr* message) {
  return ::recvmsg(fd, message, MSG_ERRQUEUE | MSG_DONTWAIT);
}

}  // namespace

const Syscalls kKernelSyscalls = {send_guest, receive_guest, receive_error_queue, ::poll};

}  // namespace multifd
