#include "channel/listener.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>

namespace multifd {
namespace {

// Main, 255 channels, and some strangers that have not been found out yet.
constexpr size_t kPendingMax = 300;
// A UNIX socket's poll knows no low-water mark: look again after this long for the missing bytes.
constexpr int kPartialPollMs = 5;

int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::string peer_name(const sockaddr_storage& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    ::inet_ntop(AF_INET, &v4.sin_addr, text.data(), text.size());
    return std::string(text.data()) + ":" + std::to_string(ntohs(v4.sin_port));
  }
  if (address.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    ::inet_ntop(AF_INET6, &v6.sin6_addr, text.data(), text.size());
    return "[" + std::string(text.data()) + "]:" + std::to_string(ntohs(v6.sin6_port));
  }
  return "a UNIX socket";
}

void set_receive_low_water(int fd, int bytes) {
  ::setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof bytes);
}

void make_blocking(int fd) {
  if (const int flags = ::fcntl(fd, F_GETFL); flags >= 0) {
    ::fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
  }
}

bool hung_up(int fd) {
  pollfd poll{fd, POLLRDHUP, 0};
  return ::poll(&poll, 1, 0) > 0;
}

// "47 45 54 20 ("GET ")": a stranger must be recognisable in the error.
std::string quote(const uint8_t* bytes, size_t count) {
  std::string hex, text;
  for (size_t i = 0; i < count; ++i) {
    std::array<char, 4> byte{};
    std::snprintf(byte.data(), byte.size(), "%02x ", bytes[i]);
    hex += byte.data();
    text += bytes[i] >= 0x20 && bytes[i] < 0x7f ? static_cast<char>(bytes[i]) : '.';
  }
  return hex + "(\"" + text + "\")";
}

}  // namespace

Result<std::unique_ptr<Listener>> Listener::start(ListenerOptions options, Wakeup& wakeup) {
  uint16_t port = 0;
  auto fd = listen_on(options.endpoint, port);
  if (!fd) return fd.error();
  std::unique_ptr<Listener> listener(
      new Listener(std::move(options), std::move(*fd), port, wakeup));
  if (auto prepared = listener->prepare(); !prepared) return prepared.error();
  if (auto started = listener->ChannelThread::start("multifd-listen"); !started) {
    return started.error();
  }
  return listener;
}

Listener::Listener(ListenerOptions options, UniqueFd fd, uint16_t port, Wakeup& wakeup)
    : ChannelThread(wakeup), options_(std::move(options)), port_(port), fd_(std::move(fd)) {
  if (!options_.endpoint.is_tcp()) {
    unlink_path_ = reinterpret_cast<const sockaddr_un&>(options_.endpoint.address).sun_path;
  }
}

Listener::~Listener() {
  destroy();
  join();
}

std::vector<Accepted> Listener::take_accepted() {
  const std::lock_guard lock(mutex_);
  return std::exchange(accepted_, {});
}

void Listener::release_resources() {
  fd_.reset();
  pending_.clear();
  take_accepted().clear();
  if (!unlink_path_.empty()) ::unlink(unlink_path_.c_str());
}

void Listener::run() {
  if (auto served = serve(); !served) fail(served.error());
}

Result<void> Listener::serve() {
  std::vector<pollfd> fds;
  while (!stopping()) {
    fds.clear();
    fds.push_back({stop_fd(), POLLIN, 0});
    // Full: connections wait in the backlog until some of ours said what they are.
    fds.push_back({fd_.get(), pending_.size() < kPendingMax ? short{POLLIN} : short{0}, 0});
    for (const Pending& pending : pending_) {
      const short events = pending.partial ? short{0} : short{POLLIN};
      fds.push_back({pending.fd.get(), events, 0});
    }
    if (::poll(fds.data(), fds.size(), poll_timeout_ms()) < 0 && errno != EINTR) {
      return Error::from_errno("poll", "waiting for connections failed");
    }
    if (auto accepted = accept_all(); !accepted) return accepted;
    if (auto progressed = progress(); !progressed) return progressed;
  }
  return {};
}

int Listener::poll_timeout_ms() const {
  int64_t wait = -1;
  for (const Pending& pending : pending_) {
    int64_t left = std::max<int64_t>(pending.deadline_ms - now_ms(), 0);
    if (pending.partial) left = std::min<int64_t>(left, kPartialPollMs);
    wait = wait < 0 ? left : std::min(wait, left);
  }
  return static_cast<int>(wait);
}

Result<void> Listener::accept_all() {
  while (pending_.size() < kPendingMax) {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    UniqueFd fd(::accept4(fd_.get(), reinterpret_cast<sockaddr*>(&address), &size,
                          SOCK_CLOEXEC | SOCK_NONBLOCK),
                Resource::kSocket);
    if (!fd) {
      const bool later = errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
      if (later) return {};
      return Error::from_errno("accept4", "accepting a connection failed");
    }
    if (options_.endpoint.is_tcp()) tune_tcp(fd.get(), address);
    set_receive_low_water(fd.get(), 4);
    Pending pending;
    pending.fd = std::move(fd);
    pending.peer = peer_name(address);
    pending.deadline_ms = now_ms() + options_.identify_timeout_ms;
    pending_.push_back(std::move(pending));
  }
  return {};
}

// Looks at every connection that has not said yet what it is.
Result<void> Listener::progress() {
  for (auto it = pending_.begin(); it != pending_.end();) {
    Accepted accepted;
    auto identity = it->is_multifd ? Result<Identity>(Identity::kMultifd) : identify(*it);
    if (!identity) return identity.error();
    bool complete = *identity == Identity::kMain;
    if (*identity == Identity::kMultifd) {
      auto read = read_initial(*it, accepted.initial);
      if (!read) return read.error();
      complete = *read;
    }
    if (complete) {
      accepted.is_main = *identity == Identity::kMain;
      accepted.fd = std::move(it->fd);
      accepted.peer = std::move(it->peer);
      it = pending_.erase(it);
      hand_over(std::move(accepted));
      continue;
    }
    if (now_ms() >= it->deadline_ms) {
      return Error::make(ErrorCode::kTimeout,
                         "the connection from %s did not say within %d ms what it is: expected the "
                         "main channel (\"QEVM\") or a multifd channel (11 22 33 44)",
                         it->peer.c_str(), options_.identify_timeout_ms);
    }
    ++it;
  }
  return {};
}

Result<Listener::Identity> Listener::identify(Pending& pending) {
  std::array<uint8_t, 4> first{};
  const ssize_t got = ::recv(pending.fd.get(), first.data(), first.size(), MSG_PEEK);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Identity::kUnknown;
  if (got < 0) {
    return Error::from_errno("recv", "reading from %s failed", pending.peer.c_str());
  }
  if (got == 0) {
    return Error::make(ErrorCode::kHandshake,
                       "the connection from %s closed before it said what it is",
                       pending.peer.c_str());
  }
  uint32_t magic = 0;
  std::memcpy(&magic, first.data(), first.size());
  magic = __builtin_bswap32(magic);
  pending.partial = static_cast<size_t>(got) < first.size();
  if (pending.partial) {
    if (!hung_up(pending.fd.get())) return Identity::kUnknown;
    return Error::make(ErrorCode::kHandshake,
                       "the connection from %s closed after %s, before it said what it is",
                       pending.peer.c_str(), quote(first.data(), static_cast<size_t>(got)).c_str());
  }
  if (magic == kQemuFileMagic) return Identity::kMain;
  if (magic == kMultifdMagic) {
    pending.is_multifd = true;
    set_receive_low_water(pending.fd.get(), static_cast<int>(kInitialPacketSize));
    return Identity::kMultifd;
  }
  return Error::make(ErrorCode::kHandshake,
                     "the connection from %s began with %s, expected the main channel "
                     "51 45 56 4d (\"QEVM\") or a multifd channel 11 22 33 44: it is not a "
                     "migration source",
                     pending.peer.c_str(), quote(first.data(), static_cast<size_t>(got)).c_str());
}

Result<bool> Listener::read_initial(Pending& pending, InitialPacket& out) {
  std::array<uint8_t, kInitialPacketSize> bytes;
  ssize_t got = ::recv(pending.fd.get(), bytes.data(), bytes.size(), MSG_PEEK);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (got < 0) {
    return Error::from_errno("recv", "reading from %s failed", pending.peer.c_str());
  }
  pending.partial = static_cast<size_t>(got) < bytes.size();
  if (pending.partial) {
    if (!hung_up(pending.fd.get())) return false;
    return Error::make(ErrorCode::kHandshake,
                       "the connection from %s closed after %zd bytes of its initial packet, "
                       "expected %zu",
                       pending.peer.c_str(), got, bytes.size());
  }
  got = ::recv(pending.fd.get(), bytes.data(), bytes.size(), 0);  // the bytes just seen
  auto parsed = parse_initial_packet(bytes);
  if (!parsed) return parsed.error();
  out = *parsed;
  return got == static_cast<ssize_t>(bytes.size());
}

void Listener::hand_over(Accepted accepted) {
  set_receive_low_water(accepted.fd.get(), 1);
  if (!accepted.is_main) make_blocking(accepted.fd.get());  // libuv wants main as it is
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = accepted_.empty();
    accepted_.push_back(std::move(accepted));
  }
  // One event for however many wait, so that 256 connections cannot overflow the ring.
  if (first) emit(EventKind::kAccepted);
}

}  // namespace multifd
