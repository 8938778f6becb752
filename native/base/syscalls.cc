#include "base/syscalls.h"

#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <fstream>

#include "base/kernel_compat.h"

namespace multifd {
namespace {

ssize_t send_guest(int fd, const msghdr* message, int flags) {
  return ::syscall(SYS_sendmsg, fd, message, flags);
}

int receive_guest(int fd, mmsghdr* parts, unsigned count) {
  return static_cast<int>(
      ::syscall(SYS_recvmmsg, fd, parts, count, MSG_WAITALL | MSG_WAITFORONE, nullptr));
}

ssize_t receive_error_queue(int fd, msghdr* message) {
  return ::recvmsg(fd, message, MSG_ERRQUEUE | MSG_DONTWAIT);
}

int tcp_state(int fd, tcp_info* out) {
  socklen_t size = sizeof *out;
  return ::getsockopt(fd, IPPROTO_TCP, TCP_INFO, out, &size);
}

// socket(7): net.core.optmem_max; sock_diag(7): SK_MEMINFO_OPTMEM. A notification is charged with
// its buffer's size (832 bytes on 6.18, x86-64), of which the kernel wants two thirds to be free.
bool option_memory_full(int fd) {
  constexpr uint64_t kNotificationBytes = 1024;
  std::array<uint32_t, SK_MEMINFO_VARS> memory{};
  socklen_t size = sizeof memory;
  if (::getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory.data(), &size) < 0) return false;
  uint64_t most = 0;  // of the network namespace, and it may be changed at any time
  if (!(std::ifstream("/proc/sys/net/core/optmem_max") >> most)) return false;
  return memory[SK_MEMINFO_OPTMEM] + kNotificationBytes > most;
}

ssize_t fill_pipe(int pipe, const iovec* parts, size_t count) {
  return ::vmsplice(pipe, parts, count, SPLICE_F_NONBLOCK);
}

ssize_t drain_pipe(int pipe, int fd, size_t bytes, unsigned flags) {
  return ::splice(pipe, nullptr, fd, nullptr, bytes, flags);
}

}  // namespace

const Syscalls kKernelSyscalls = {send_guest, receive_guest, receive_error_queue, ::poll,
                                  tcp_state, option_memory_full, fill_pipe, drain_pipe};

}  // namespace multifd
