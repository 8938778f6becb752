// The table of system calls that the data plane makes on sockets. Tests replace entries to inject
// short sends, EAGAIN, ENOBUFS and resets; nothing else in native/ calls these functions directly.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

struct tcp_info;  // linux/tcp.h

namespace multifd {

struct Syscalls {
  // `send_guest` and `receive_guest` are sendmsg(2) and recvmmsg(2) on iovecs that may point into
  // guest memory. They enter the kernel without libc's wrapper, because a sanitizer's interceptor
  // would read the iovecs and report the guest's own, legitimate, writes as a data race.
  ssize_t (*send_guest)(int fd, const msghdr* message, int flags);
  // Waits until the first part is full; takes for the second what is there then, without waiting.
  int (*receive_guest)(int fd, mmsghdr* parts, unsigned count);
  ssize_t (*receive_error_queue)(int fd, msghdr* message);
  int (*poll)(pollfd* fds, nfds_t count, int timeout_ms);
  int (*tcp_state)(int fd, tcp_info* out);  // getsockopt(TCP_INFO); what it lacks stays as it was
  // Whether the socket's option memory has no room for one zero-copy notification more.
  bool (*option_memory_full)(int fd);
  // vmsplice(2) into a pipe that is empty: never waits, and comes short where the pipe is full.
  ssize_t (*fill_pipe)(int pipe, const iovec* parts, size_t count);
  ssize_t (*drain_pipe)(int pipe, int fd, size_t bytes, unsigned flags);  // splice(2)
};

extern const Syscalls kKernelSyscalls;

}  // namespace multifd
