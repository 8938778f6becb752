// Reads the bytes of a multifd channel: payloads to where they belong, and the headers between
// them. A header has one of two sizes, so it never waits for more than the smaller one; what has
// come of the larger one is taken in the same system call. Knows iovecs and the sizes of headers,
// and nothing of what they say.
#pragma once

#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "base/syscalls.h"
#include "wire/device_packet.h"
#include "wire/packet.h"

namespace multifd {

// Every packet has so many bytes and more: waiting for them never waits for what is not coming.
inline constexpr size_t kFrontSize = kDeviceHeaderSize;
static_assert(kFrontSize < kRamHeaderSize);

class PacketReader {
 public:
  // `header_size`: of RAM packets; kRamHeaderSize or kLargeRamHeaderSize.
  PacketReader(int fd, const Syscalls& syscalls, const std::atomic<bool>& stop, size_t header_size)
      : fd_(fd), syscalls_(syscalls), stop_(stop), header_size_(header_size) {}

  // What these return is false where the peer closed the connection in front of a header, or where
  // the thread was told to stop. A connection that ends anywhere else is an error.

  // The front of the next header.
  Result<bool> read_front();
  // Behind the front of a RAM packet: the rest of its header. Then comes its payload.
  Result<bool> read_ram_header();
  Result<bool> read_payload(std::span<iovec> payload);
  // The payload and, in the same system call where it has come, the next header. The last iovec is
  // room for that; all of them change.
  Result<bool> read_payload_and_front(std::span<iovec> payload_and_one);
  // Behind the front of a device-state packet, which is its whole header: the payload.
  Result<bool> read_device_payload(std::span<uint8_t> payload);

  // Until the next call that reads.
  [[nodiscard]] std::span<const uint8_t, kFrontSize> front() const {
    return std::span(header_).first<kFrontSize>();
  }
  [[nodiscard]] std::span<const uint8_t> ram_header() const {
    return std::span(header_).first(header_size_);
  }
  // Of the connection, the initial packet included.
  [[nodiscard]] uint64_t received_bytes() const { return received_bytes_; }

 private:
  Result<bool> read(std::span<iovec> iov, size_t payload_bytes, bool with_front);
  Result<void> put_in_place(msghdr& message, size_t& left, size_t& ahead);

  const int fd_;
  const Syscalls& syscalls_;
  const std::atomic<bool>& stop_;
  const size_t header_size_;
  uint64_t received_bytes_ = kInitialPacketSize;
  size_t filled_ = 0;  // of header_, by the next packet's header or, behind a short one, more
  std::array<uint8_t, kLargeRamHeaderSize> header_;
};

}  // namespace multifd
