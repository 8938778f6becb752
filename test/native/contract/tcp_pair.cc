// See tcp_pair.h.
#include "tcp_pair.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <utility>

#include "base/kernel_compat.h"
#include "check.h"

namespace contract {

using multifd::Resource;
using multifd::UniqueFd;

Pair unix_pair() {
  std::array<int, 2> fds{};
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()), 0);
  return {UniqueFd(fds[0], Resource::kSocket), UniqueFd(fds[1], Resource::kSocket)};
}

Pair tcp_pair(bool zero_copy) {
  const UniqueFd listening(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), Resource::kSocket);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  CHECK_EQ(bind(listening.get(), any, size), 0);
  CHECK_EQ(listen(listening.get(), 1), 0);
  CHECK_EQ(getsockname(listening.get(), any, &size), 0);
  UniqueFd sender(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), Resource::kSocket);
  CHECK_EQ(connect(sender.get(), any, size), 0);
  if (zero_copy) {
    const int on = 1;
    if (setsockopt(sender.get(), SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on) != 0) {
      SKIP("this kernel has no SO_ZEROCOPY for TCP");
    }
  }
  UniqueFd receiver(accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC), Resource::kSocket);
  return {std::move(sender), std::move(receiver)};
}

Reader::Reader(int fd)
    : thread_([this, fd] {
        std::array<uint8_t, 64 * 1024> bytes;
        for (ssize_t got; (got = read(fd, bytes.data(), bytes.size())) > 0;) {
          arrived_.insert(arrived_.end(), bytes.begin(), bytes.begin() + got);
        }
      }) {}

Reader::~Reader() {
  if (thread_.joinable()) thread_.join();
}

std::vector<uint8_t> Reader::join() {
  thread_.join();
  return std::move(arrived_);
}

}  // namespace contract
