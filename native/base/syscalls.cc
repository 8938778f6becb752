#include "base/syscalls.h"

#include <linux/tcp.h>
#include <netinet/in.h>
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

int tcp_state(int fd, tcp_info* out) {
  socklen_t size = sizeof *out;
  return ::getsockopt(fd, IPPROTO_TCP, TCP_INFO, out, &size);
}

}  // namespace

const Syscalls kKernelSyscalls = {send_guest, receive_guest, receive_error_queue, ::poll,
                                  tcp_state};

}  // namespace multifd
