// See fake_wire.h.
#include "fake_wire.h"

#include <algorithm>
#include <cstring>

namespace fixture {

void FakeWire::accept(const iovec* parts, size_t bytes, bool later, uint64_t id) {
  Pending send{id, stream_.size(), {}, bytes};
  size_t left = bytes;
  for (size_t i = 0; left > 0; ++i) {
    const size_t part = std::min(left, parts[i].iov_len);
    send.parts.push_back({parts[i].iov_base, part});
    left -= part;
  }
  stream_.resize(stream_.size() + bytes);
  if (!later) return read_now(send);
  pending_bytes_ += bytes;
  pending_high_bytes_ = std::max(pending_high_bytes_, pending_bytes_);
  pending_.push_back(std::move(send));
}

void FakeWire::read_now(const Pending& send) {
  size_t at = send.offset;
  for (const iovec& part : send.parts) {
    std::memcpy(&stream_[at], part.iov_base, part.iov_len);
    at += part.iov_len;
  }
}

FakeWire::Pending FakeWire::finish() {
  return finish(chance(faults_.out_of_order) ? random_.below(pending_.size()) : 0);
}

FakeWire::Pending FakeWire::finish(size_t index) {
  Pending send = pending_[index];
  pending_.erase(pending_.begin() + static_cast<ptrdiff_t>(index));
  pending_bytes_ -= send.bytes;
  read_now(send);
  return send;
}

bool FakeWire::reads(const void* begin, size_t size) const {
  const auto* const from = static_cast<const uint8_t*>(begin);
  for (const Pending& send : pending_) {
    for (const iovec& part : send.parts) {
      const auto* const at = static_cast<const uint8_t*>(part.iov_base);
      if (at < from + size && from < at + part.iov_len) return true;
    }
  }
  return false;
}

}  // namespace fixture
