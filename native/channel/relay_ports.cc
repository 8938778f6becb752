#include "channel/relay_ports.h"

#include <sys/eventfd.h>

#include "base/iov.h"

namespace multifd {

Result<std::shared_ptr<RelayPorts>> RelayPorts::create(
    RelayPortsOptions options, std::vector<std::unique_ptr<PayloadEncoder>> encoders) {
  std::shared_ptr<RelayPorts> ports(new RelayPorts(std::move(options)));
  ports->stop_fd_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), Resource::kEventFd);
  if (!ports->stop_fd_) return Error::from_errno("eventfd", "making an eventfd failed");
  for (auto& encoder : encoders) {
    auto port = std::make_unique<Port>();
    if (encoder) port->encoded.resize(encoder->bytes_max());
    port->encoder = std::move(encoder);
    ports->ports_.push_back(std::move(port));
  }
  return ports;
}

Result<void> RelayPorts::connect() {
  for (size_t index = 0; index < ports_.size(); ++index) {
    auto fd = connect_to(options_.endpoint, options_.connect_timeout_ms, stop_fd_.get());
    if (!fd) return fd.error();
    const int socket = fd->get();
    if (auto kept = keep(index, std::move(*fd)); !kept) return kept;
    std::array<uint8_t, kInitialPacketSize> initial;
    fill_initial_packet(initial,
                        {.uuid = options_.uuid, .channel_id = static_cast<uint8_t>(index)});
    const std::lock_guard lock(ports_[index]->mutex);
    if (auto sent = write_fully(socket, initial, {}); !sent) return sent;
    ports_[index]->sent_bytes += initial.size();
    publish(index);
  }
  return {};
}

Result<void> RelayPorts::keep(size_t index, UniqueFd fd) {
  const std::lock_guard lock(sockets_mutex_);
  if (stop_.load(std::memory_order_relaxed)) return stopped();
  ports_[index]->fd = std::move(fd);
  return {};
}

void RelayPorts::adopt(std::vector<UniqueFd> sockets) {
  for (size_t index = 0; index < ports_.size() && index < sockets.size(); ++index) {
    static_cast<void>(!keep(index, std::move(sockets[index])));
  }
}

void RelayPorts::stop() {
  const std::lock_guard lock(sockets_mutex_);
  if (stop_.exchange(true)) return;
  const uint64_t one = 1;
  static_cast<void>(!::write(stop_fd_.get(), &one, sizeof one));
  for (const auto& port : ports_) {
    if (port->fd) ::shutdown(port->fd.get(), SHUT_RDWR);
  }
}

// Round robin over the ports that nobody is writing to; behind all of them, in line for one.
std::unique_lock<std::mutex> RelayPorts::take_port(size_t preferred, size_t& index) {
  for (size_t step = 0; step < ports_.size(); ++step) {
    index = (preferred + step) % ports_.size();
    std::unique_lock lock(ports_[index]->mutex, std::try_to_lock);
    if (lock.owns_lock()) return lock;
  }
  index = preferred % ports_.size();
  return std::unique_lock(ports_[index]->mutex);
}

Result<void> RelayPorts::send(const RamHeader& header, std::span<uint8_t> pages,
                              size_t preferred) {
  writers_.fetch_add(1, std::memory_order_relaxed);
  size_t index = 0;
  const auto lock = take_port(preferred, index);
  Port& port = *ports_[index];
  const std::span<const uint64_t> offsets(header.offsets);
  RamPacket packet{.block = header.block(),
                   .normal = offsets.first(header.normal_pages),
                   .zero = offsets.subspan(header.normal_pages, header.zero_pages)};
  std::span<const uint8_t> payload = pages;
  Result<void> sent;
  if (port.encoder) {
    packet.flags = port.encoder->flag();
    payload = {};
    if (!pages.empty()) {
      const iovec run{pages.data(), pages.size()};
      const auto bytes = port.encoder->encode({&run, 1}, port.encoded);
      if (!bytes) sent = bytes.error();
      if (bytes) payload = std::span(port.encoded).first(*bytes);
    }
    packet.compressed_bytes = static_cast<uint32_t>(payload.size());
  }
  if (sent) sent = send_on(index, packet, payload);
  writers_.fetch_sub(1, std::memory_order_relaxed);
  return sent;
}

Result<void> RelayPorts::sync_out() {
  for (size_t index = 0; index < ports_.size(); ++index) {
    const std::lock_guard lock(ports_[index]->mutex);
    RamPacket packet;
    packet.flags = kFlagSync;
    ++ports_[index]->syncs;
    if (auto sent = send_on(index, packet, {}); !sent) return sent;
  }
  return {};
}

// The port's lock is held.
Result<void> RelayPorts::send_on(size_t index, const RamPacket& packet,
                                 std::span<const uint8_t> payload) {
  Port& port = *ports_[index];
  RamPacket numbered = packet;
  numbered.packet_num = next_packet_num_.fetch_add(1, std::memory_order_relaxed);
  fill_ram_header(port.header, numbered);
  if (auto sent = write_fully(port.fd.get(), port.header, payload); !sent) return sent;
  port.sent_bytes += port.header.size() + payload.size();
  ++port.packets;
  publish(index);
  return {};
}

Result<void> RelayPorts::write_fully(int fd, std::span<const uint8_t> header,
                                     std::span<const uint8_t> payload) {
  std::array<iovec, 2> iov = {iovec{const_cast<uint8_t*>(header.data()), header.size()},
                              iovec{const_cast<uint8_t*>(payload.data()), payload.size()}};
  msghdr message{};
  message.msg_iov = iov.data();
  message.msg_iovlen = payload.empty() ? 1 : 2;
  size_t left = header.size() + payload.size();
  while (left > 0) {
    if (stop_.load(std::memory_order_relaxed)) return stopped();
    const ssize_t sent = options_.syscalls->send_guest(fd, &message, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (sent < 0) {
      const int saved = errno;
      if (stop_.load(std::memory_order_relaxed)) return stopped();
      errno = saved;
      return Error::from_errno("sendmsg", "sending %zu bytes to the destination failed", left);
    }
    left -= static_cast<size_t>(sent);
    advance(message, static_cast<size_t>(sent));
  }
  return {};
}

void RelayPorts::publish(size_t index) {
  constexpr auto kPerPort = static_cast<size_t>(RelayPortCounter::kCount);
  const Port& port = *ports_[index];
  CounterCells<RelayPortCounter> cells(options_.counters + index * kPerPort);
  cells.set(RelayPortCounter::kSentBytes, port.sent_bytes);
  cells.set(RelayPortCounter::kPackets, port.packets);
  cells.set(RelayPortCounter::kSyncs, port.syncs);
}

Error RelayPorts::stopped() const {
  return Error::make(ErrorCode::kClosed, "the relay was told to stop");
}

}  // namespace multifd
