#include "channel/endpoint.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/un.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <string_view>

namespace multifd {
namespace {

// Each way; the kernel doubles it for its own book-keeping (socket(7)).
constexpr int kLoopbackBufferBytes = 1 << 20;
// Built into every kernel, and free for everybody to choose (tcp(7)). It does not pace: bbr, the
// default of some systems, sends by a timer, which pays where a queue may fill up on the way.
constexpr std::string_view kLoopbackCongestionControl = "reno";

bool is_loopback(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    return (ntohl(v4.sin_addr.s_addr) >> 24) == IN_LOOPBACKNET;
  }
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
  if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) return v6.sin6_addr.s6_addr[12] == IN_LOOPBACKNET;
  return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
}

// Channels are few (at most 255 + main), but they all connect in one instant.
constexpr int kListenBacklog = 512;

Result<void> wait_connected(int fd, const Endpoint& to, int timeout_ms, int stop_fd) {
  std::array<pollfd, 2> fds = {pollfd{fd, POLLOUT, 0}, pollfd{stop_fd, POLLIN, 0}};
  int ready;
  do {
    ready = ::poll(fds.data(), fds.size(), timeout_ms);
  } while (ready < 0 && errno == EINTR);
  if (ready < 0) return Error::from_errno("poll", "connecting to %s failed", to.text.c_str());
  if (fds[1].revents != 0) return Error::make(ErrorCode::kClosed, "the channel was told to stop");
  if (ready == 0) {
    return Error::make(ErrorCode::kTimeout,
                       "connecting to %s took longer than %d ms: is a destination listening there, "
                       "and does the network let it through?",
                       to.text.c_str(), timeout_ms);
  }
  int socket_error = 0;
  socklen_t size = sizeof socket_error;
  ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &socket_error, &size);
  if (socket_error == 0) return {};
  errno = socket_error;
  return Error::from_errno("connect", "connecting to %s failed: is a destination listening there?",
                           to.text.c_str());
}

}  // namespace

Result<Endpoint> Endpoint::tcp(const std::string& numeric_host, uint16_t port) {
  Endpoint endpoint;
  auto* const v4 = reinterpret_cast<sockaddr_in*>(&endpoint.address);
  auto* const v6 = reinterpret_cast<sockaddr_in6*>(&endpoint.address);
  if (::inet_pton(AF_INET, numeric_host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    endpoint.size = sizeof *v4;
    endpoint.text = numeric_host + ":" + std::to_string(port);
  } else if (::inet_pton(AF_INET6, numeric_host.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    endpoint.size = sizeof *v6;
    endpoint.text = "[" + numeric_host + "]:" + std::to_string(port);
  } else {
    return Error::make(ErrorCode::kChannel, "\"%s\" is not a numeric IPv4 or IPv6 address",
                       numeric_host.c_str());
  }
  return endpoint;
}

Result<Endpoint> Endpoint::unix_path(const std::string& path) {
  Endpoint endpoint;
  auto* const address = reinterpret_cast<sockaddr_un*>(&endpoint.address);
  if (path.empty() || path.size() >= sizeof address->sun_path) {
    return Error::make(ErrorCode::kLimit, "the UNIX path has %zu bytes, expected 1 to %zu",
                       path.size(), sizeof address->sun_path - 1);
  }
  address->sun_family = AF_UNIX;
  std::memcpy(address->sun_path, path.c_str(), path.size() + 1);
  endpoint.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  endpoint.text = "unix:" + path;
  return endpoint;
}

void tune_tcp(int fd, const sockaddr_storage& peer) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (!is_loopback(peer)) return;
  const int bytes = kLoopbackBufferBytes;
  ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  // Where it is not to be had the system's own stays.
  ::setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kLoopbackCongestionControl.data(),
               kLoopbackCongestionControl.size());
}

Result<UniqueFd> connect_to(const Endpoint& endpoint, int timeout_ms, int stop_fd) {
  UniqueFd fd(::socket(endpoint.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0),
              Resource::kSocket);
  if (!fd) return Error::from_errno("socket", "making a socket failed");
  if (endpoint.is_tcp()) tune_tcp(fd.get(), endpoint.address);
  const auto* const address = reinterpret_cast<const sockaddr*>(&endpoint.address);
  if (::connect(fd.get(), address, endpoint.size) < 0) {
    if (errno != EINPROGRESS) {
      return Error::from_errno("connect",
                               "connecting to %s failed: is a destination listening there?",
                               endpoint.text.c_str());
    }
    if (auto waited = wait_connected(fd.get(), endpoint, timeout_ms, stop_fd); !waited) {
      return waited.error();
    }
  }
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags & ~O_NONBLOCK) < 0) {
    return Error::from_errno("fcntl", "making the socket blocking failed");
  }
  return fd;
}

Result<UniqueFd> listen_on(const Endpoint& endpoint, uint16_t& port_out) {
  UniqueFd fd(::socket(endpoint.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0),
              Resource::kSocket);
  if (!fd) return Error::from_errno("socket", "making a socket failed");
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&endpoint.address), endpoint.size) < 0) {
    return Error::from_errno("bind", "listening on %s failed: is it in use, or not ours?",
                             endpoint.text.c_str());
  }
  if (::listen(fd.get(), kListenBacklog) < 0) {
    return Error::from_errno("listen", "listening on %s failed", endpoint.text.c_str());
  }
  port_out = 0;
  if (!endpoint.is_tcp()) return fd;
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &size) < 0) {
    return Error::from_errno("getsockname", "reading the listening port failed");
  }
  port_out = ntohs(bound.ss_family == AF_INET
                       ? reinterpret_cast<const sockaddr_in*>(&bound)->sin_port
                       : reinterpret_cast<const sockaddr_in6*>(&bound)->sin6_port);
  return fd;
}

}  // namespace multifd
