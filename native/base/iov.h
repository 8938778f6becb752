// Scattered transfers: how long they are, and what sendmsg, recvmsg and splice leave of them.
#pragma once

#include <sys/socket.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace multifd {

inline size_t bytes_of(std::span<const iovec> parts) {
  size_t bytes = 0;
  for (const iovec& part : parts) bytes += part.iov_len;
  return bytes;
}

// Drops `bytes` from the front of the message's iovecs; changes the iovecs themselves.
inline void advance(msghdr& message, size_t bytes) {
  while (bytes > 0) {
    iovec& front = *message.msg_iov;
    const size_t step = std::min(bytes, front.iov_len);
    front = {static_cast<uint8_t*>(front.iov_base) + step, front.iov_len - step};
    bytes -= step;
    if (front.iov_len == 0) {
      ++message.msg_iov;
      --message.msg_iovlen;
    }
  }
}

}  // namespace multifd
