// Where a channel connects to or a listener listens: a numeric TCP address or a UNIX path. Names
// are resolved before they come here.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace multifd {

struct Endpoint {
  sockaddr_storage address{};
  socklen_t size = 0;
  std::string text;  // "10.0.0.2:4444", "[::1]:4444", "unix:/run/x": for error sentences

  static Result<Endpoint> tcp(const std::string& numeric_host, uint16_t port);
  static Result<Endpoint> unix_path(const std::string& path);
  [[nodiscard]] bool is_tcp() const { return address.ss_family != AF_UNIX; }
};

// What every TCP connection of ours gets: TCP_NODELAY, and on loopback small buffers and a
// congestion control that does not pace. In flight within one machine is only what the receiver has
// not copied yet: small enough, it is still in the caches when it does (measured, see
// docs/performance.md). On a network the kernel's own tuning knows better.
void tune_tcp(int fd, const sockaddr_storage& peer);

// Connects within timeout_ms; `stop_fd` becoming readable ends the attempt. The socket returned is
// blocking, with TCP_NODELAY.
Result<UniqueFd> connect_to(const Endpoint& endpoint, int timeout_ms, int stop_fd);
// Listens; with port 0 the kernel chooses. `port_out` receives the real one.
Result<UniqueFd> listen_on(const Endpoint& endpoint, uint16_t& port_out);

}  // namespace multifd
