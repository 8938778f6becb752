#include "engine/registered_memory.h"

#include <algorithm>
#include <cerrno>

namespace multifd {
namespace {

uint8_t* begin_of(const iovec& piece) { return static_cast<uint8_t*>(piece.iov_base); }

}  // namespace

FixedBuffers::FixedBuffers(std::span<const iovec> ranges, size_t piece_bytes) {
  for (const iovec& range : ranges) {
    for (size_t at = 0; at < range.iov_len; at += piece_bytes) {
      pieces_.push_back({begin_of(range) + at, std::min(piece_bytes, range.iov_len - at)});
    }
  }
  std::sort(pieces_.begin(), pieces_.end(),
            [](const iovec& a, const iovec& b) { return begin_of(a) < begin_of(b); });
}

bool FixedBuffers::find(const void* address, Part& out) const {
  const auto* const at = static_cast<const uint8_t*>(address);
  auto after = std::upper_bound(
      pieces_.begin(), pieces_.end(), at,
      [](const uint8_t* wanted, const iovec& piece) { return wanted < begin_of(piece); });
  if (after == pieces_.begin()) return false;
  --after;
  const auto offset = static_cast<size_t>(at - begin_of(*after));
  if (offset >= after->iov_len) return false;
  out = {static_cast<uint32_t>(after - pieces_.begin()), after->iov_len - offset};
  return true;
}

Result<std::shared_ptr<const RegisteredMemory>> RegisteredMemory::create(
    std::span<const iovec> ranges) {
  FixedBuffers buffers(ranges);
  auto ring = IoUring::create({.requests = 1, .completions = 2, .single_issuer = false});
  if (!ring) return ring.error();
  if (auto done = (*ring)->register_buffers(buffers.pieces()); !done) {
    if (done.error().errno_value != ENOMEM) return done.error();
    errno = ENOMEM;
    return Error::from_errno("io_uring_register",
                             "the locked-memory limit (RLIMIT_MEMLOCK) has no room for all guest "
                             "memory; all programs of this user share it");
  }
  return std::shared_ptr<const RegisteredMemory>(
      new RegisteredMemory(std::move(*ring), std::move(buffers)));
}

Result<void> RegisteredMemory::share_with(IoUring& ring) const {
  if (auto cloned = ring.clone_buffers(*ring_); cloned) return {};
  return ring.register_buffers(buffers_.pieces());
}

}  // namespace multifd
