#include "channel/packet_reader.h"

#include <algorithm>
#include <cstring>

#include "base/iov.h"
#include "guest/page_ops.h"
#include "guest/prefault.h"

namespace multifd {
namespace {

size_t bytes_in(std::span<const iovec> iov) {
  size_t bytes = 0;
  for (const iovec& part : iov) bytes += part.iov_len;
  return bytes;
}

}  // namespace

Result<bool> PacketReader::read_front() {
  iovec room{};
  return read({&room, 1}, 0, true);
}

Result<bool> PacketReader::read_ram_header() {
  iovec rest{header_.data() + filled_, header_size_ - filled_};
  auto complete = read({&rest, 1}, rest.iov_len, false);
  filled_ = 0;  // the bytes stay until the next header comes
  return complete;
}

Result<bool> PacketReader::read_payload(std::span<iovec> payload) {
  return read(payload, bytes_in(payload), false);
}

Result<bool> PacketReader::read_payload_and_front(std::span<iovec> payload_and_one) {
  return read(payload_and_one, bytes_in(payload_and_one.first(payload_and_one.size() - 1)), true);
}

Result<bool> PacketReader::read_device_payload(std::span<uint8_t> payload) {
  const size_t here = std::min(payload.size(), filled_ - kFrontSize);
  std::memcpy(payload.data(), header_.data() + kFrontSize, here);
  const size_t used = kFrontSize + here;
  filled_ -= used;
  std::memmove(header_.data(), header_.data() + used, filled_);
  iovec rest{payload.data() + here, payload.size() - here};
  return read({&rest, 1}, rest.iov_len, false);
}

// Fills `iov`; with the front, its last element is the place for what lacks of that.
Result<bool> PacketReader::read(std::span<iovec> iov, size_t payload_bytes, bool with_front) {
  const size_t front = with_front && filled_ < kFrontSize ? kFrontSize - filled_ : 0;
  if (with_front) iov.back() = {header_.data() + filled_, front};
  iovec beyond{header_.data() + kFrontSize, header_size_ - kFrontSize};
  std::array<mmsghdr, 2> parts{};
  msghdr& message = parts[0].msg_hdr;
  message.msg_iov = iov.data();
  message.msg_iovlen = iov.size();
  parts[1].msg_hdr.msg_iov = &beyond;
  parts[1].msg_hdr.msg_iovlen = 1;
  const size_t wanted = payload_bytes + front;
  size_t left = wanted;
  size_t ahead = 0;
  while (left > 0) {
    const int done = syscalls_.receive_guest(fd_, parts.data(), with_front ? 2 : 1);
    if (stop_.load(std::memory_order_relaxed)) return false;
    if (done < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (done < 0) {
      return Error::from_errno("recvmmsg", errno == EFAULT
                                               ? "writing to guest memory failed: is the file "
                                                 "system that backs it full?"
                                               : "reading the channel failed");
    }
    const size_t got = parts[0].msg_len;
    if (got == 0) {
      if (with_front && left == front && filled_ == 0) return false;
      return Error::make(ErrorCode::kPeerClosed,
                         "the peer closed the channel in the middle of a packet: got %zu bytes, "
                         "expected %zu",
                         wanted - left, wanted);
    }
    left -= got;
    advance(message, got);
    ahead = done > 1 ? parts[1].msg_len : 0;
    received_bytes_ += got + ahead;
    if (left == 0 || ahead == 0) continue;
    if (auto put = put_in_place(message, left, ahead); !put) return put.error();
  }
  if (front > 0) filled_ = kFrontSize + ahead;
  return true;
}

// A call that a signal or a debugger interrupts comes short, and what it left was then taken for
// what is ahead.
Result<void> PacketReader::put_in_place(msghdr& message, size_t& left, size_t& ahead) {
  uint8_t* const from = header_.data() + kFrontSize;
  size_t moved = 0;
  while (left > 0 && moved < ahead) {
    iovec to = *message.msg_iov;
    to.iov_len = std::min(to.iov_len, ahead - moved);
    if (auto there = prefault(to); !there) return there;
    copy_bytes(static_cast<uint8_t*>(to.iov_base), from + moved, to.iov_len);
    advance(message, to.iov_len);
    moved += to.iov_len;
    left -= to.iov_len;
  }
  ahead -= moved;
  std::memmove(from, from + moved, ahead);
  return {};
}

}  // namespace multifd
