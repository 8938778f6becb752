#include "engine/path_probe.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <optional>

#include "base/kernel_compat.h"
#include "base/syscalls.h"
#include "base/unique_fd.h"
#include "engine/errqueue.h"
#include "guest/mapping.h"

namespace multifd {
namespace {

constexpr size_t kPayloadMaxBytes = 16 * 1024;
constexpr int kHeadersMaxBytes = 48;  // IPv6 and UDP; a datagram in fragments is never zero-copied
constexpr uint16_t kDiscardPort = 9;
constexpr const char* kAllHosts6 = "ff02::1";
constexpr auto kAnswerWait = std::chrono::milliseconds(500);

[[gnu::format(printf, 1, 2)]] PathProbe refused(const char* format, ...) {
  PathProbe probe;
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(probe.reason, sizeof probe.reason, format, arguments);
  va_end(arguments);
  return probe;
}

struct Interface {
  int index = 0;
  unsigned flags = 0;  // IFF_*
  int mtu_bytes = 0;
  bool ipv4 = false;  // it has an IPv4 address
};

std::optional<Interface> look_up(const char* name) {
  const UniqueFd any(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), Resource::kSocket);
  ifreq request{};
  if (!any || std::strlen(name) >= sizeof request.ifr_name) return std::nullopt;
  std::strcpy(request.ifr_name, name);
  Interface found;
  if (::ioctl(any.get(), SIOCGIFINDEX, &request) != 0) return std::nullopt;
  found.index = request.ifr_ifindex;
  if (::ioctl(any.get(), SIOCGIFMTU, &request) != 0) return std::nullopt;
  found.mtu_bytes = request.ifr_mtu;
  if (::ioctl(any.get(), SIOCGIFFLAGS, &request) != 0) return std::nullopt;
  found.flags = static_cast<uint16_t>(request.ifr_flags);
  found.ipv4 = ::ioctl(any.get(), SIOCGIFADDR, &request) == 0;
  return found;
}

template <typename T>
bool set_option(const UniqueFd& socket, int level, int option, const T& value) {
  return ::setsockopt(socket.get(), level, option, &value, sizeof value) == 0;
}

// Connects to itself: the datagram waits in its own queue until the socket is closed.
bool aim_at_self(const UniqueFd& socket) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof address;
  return ::bind(socket.get(), any, size) == 0 && ::getsockname(socket.get(), any, &size) == 0 &&
         ::connect(socket.get(), any, size) == 0;
}

// What comes back to this host would be copied on its way in, and tell nothing of the interface:
// hence no loop.
bool aim_at_group(const UniqueFd& socket, const Interface& interface) {
  ip_mreqn through{};
  through.imr_ifindex = interface.index;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(kDiscardPort);
  address.sin_addr.s_addr = htonl(INADDR_ALLHOSTS_GROUP);
  return set_option(socket, IPPROTO_IP, IP_MULTICAST_IF, through) &&
         set_option(socket, IPPROTO_IP, IP_MULTICAST_TTL, 1) &&
         set_option(socket, IPPROTO_IP, IP_MULTICAST_LOOP, 0) &&
         ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

bool aim_at_group6(const UniqueFd& socket, const Interface& interface) {
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(kDiscardPort);
  address.sin6_scope_id = static_cast<uint32_t>(interface.index);
  ::inet_pton(AF_INET6, kAllHosts6, &address.sin6_addr);
  return set_option(socket, IPPROTO_IPV6, IPV6_MULTICAST_IF, interface.index) &&
         set_option(socket, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 1) &&
         set_option(socket, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 0) &&
         ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

// The first zero-copy notification, or nothing in time. Other errors (ICMP) are passed over.
std::optional<Notification> wait_for_answer(const UniqueFd& socket) {
  using Clock = std::chrono::steady_clock;
  const auto until = Clock::now() + kAnswerWait;
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
    pollfd waited{socket.get(), 0, 0};  // POLLERR is always asked for
    if (left <= 0 || kKernelSyscalls.poll(&waited, 1, static_cast<int>(left)) == 0) {
      return std::nullopt;
    }
    alignas(cmsghdr) std::array<uint8_t, 512> control;
    msghdr message{};
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    if (kKernelSyscalls.receive_error_queue(socket.get(), &message) < 0) continue;
    Notification notification;
    if (NotificationReader(message).next(notification)) return notification;
  }
}

PathProbe send_one(const UniqueFd& socket, const Interface& interface, const char* name) {
  if (!set_option(socket, SOL_SOCKET, SO_ZEROCOPY, 1)) {
    return refused("this kernel has no zero-copy for datagrams (Linux 5.0), so it cannot be tried "
                   "without a peer: %s", std::strerror(errno));
  }
  const size_t payload_bytes = std::min(
      kPayloadMaxBytes, static_cast<size_t>(std::max(interface.mtu_bytes - kHeadersMaxBytes, 1)));
  // Pages of its own, not of the heap: a driver that never answers may still read them later.
  const auto pages = Mapping::allocate(kPayloadMaxBytes, false);
  if (!pages) return refused("no memory to send from: %s", pages.error().detail);
  std::memset((*pages)->base(), 0, kPayloadMaxBytes);
  if (::send(socket.get(), (*pages)->base(), payload_bytes, MSG_ZEROCOPY | MSG_DONTWAIT) < 0) {
    const int cause = errno;
    if (cause == ENOBUFS) {
      return refused("the kernel refused to pin %zu bytes for a send: the locked-memory limit or "
                     "net.core.optmem_max leaves no room", payload_bytes);
    }
    return refused("sending through %s failed: %s", name, std::strerror(cause));
  }
  const auto answer = wait_for_answer(socket);
  PathProbe probe;
  if (!answer) {
    probe = refused("no notification within %d ms", static_cast<int>(kAnswerWait.count()));
    probe.verdict = PathVerdict::kUnanswered;
  } else {
    probe.verdict = answer->copied ? PathVerdict::kCopied : PathVerdict::kNotCopied;
  }
  probe.payload_bytes = payload_bytes;
  return probe;
}

}  // namespace

PathProbe probe_path(const char* interface_name) {
  const auto interface = look_up(interface_name);
  if (!interface) return refused("there is no interface %s here", interface_name);
  if ((interface->flags & IFF_UP) == 0) return refused("%s is down", interface_name);
  const bool loopback = (interface->flags & IFF_LOOPBACK) != 0;
  // Unicast would need a peer; such an interface (WireGuard is one) would drop a multicast, and
  // what is dropped looks as if it had not been copied.
  if (!loopback && (interface->flags & IFF_MULTICAST) == 0) {
    return refused("%s takes no multicast, and nothing else can be sent without a peer",
                   interface_name);
  }
  const int family = loopback || interface->ipv4 ? AF_INET : AF_INET6;
  const UniqueFd socket(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0), Resource::kSocket);
  const bool aimed = socket && (loopback          ? aim_at_self(socket)
                                : interface->ipv4 ? aim_at_group(socket, *interface)
                                                  : aim_at_group6(socket, *interface));
  if (!aimed) return refused("no datagram for %s: %s", interface_name, std::strerror(errno));
  return send_one(socket, *interface, interface_name);
}

}  // namespace multifd
