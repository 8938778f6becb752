// Guest memory as io_uring's fixed buffers: pinned once, in a ring of its own, and shared by the
// rings of all channels where the kernel can. Registering makes every page resident, and a page
// that is dropped afterwards would go out with its old content: whether memory may be registered at
// all is the caller's decision (fully populated, no discards, before tracking is armed).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/io_uring.h"

namespace multifd {

inline constexpr size_t kFixedBufferMax = size_t{1} << 30;  // the kernel's bound on one buffer

// Where an address lies among the fixed buffers: pure book-keeping.
class FixedBuffers {
 public:
  // `ranges` must not overlap; each is cut into pieces of at most `piece_bytes`.
  explicit FixedBuffers(std::span<const iovec> ranges, size_t piece_bytes = kFixedBufferMax);

  struct Part {
    uint32_t buffer = 0;
    size_t bytes = 0;  // from the address to the end of its buffer
  };
  // False: the address is in no buffer.
  bool find(const void* address, Part& out) const;
  // Buffer i is piece i; ascending addresses.
  [[nodiscard]] std::span<const iovec> pieces() const { return pieces_; }

 private:
  std::vector<iovec> pieces_;
};

class RegisteredMemory {
 public:
  // Registers the ranges (page-aligned, mapped for as long as this object and every engine that
  // uses it lives). Fails where io_uring is not to be had, and with ENOMEM above RLIMIT_MEMLOCK.
  static Result<std::shared_ptr<const RegisteredMemory>> create(std::span<const iovec> ranges);

  // Gives `ring` the same buffers. Any thread; the one that owns `ring`. Where the kernel cannot
  // clone they are registered once more, and count against the limit once more.
  Result<void> share_with(IoUring& ring) const;
  [[nodiscard]] const FixedBuffers& buffers() const { return buffers_; }

 private:
  RegisteredMemory(std::unique_ptr<IoUring> ring, FixedBuffers buffers)
      : buffers_(std::move(buffers)), ring_(std::move(ring)) {}

  const FixedBuffers buffers_;
  const std::unique_ptr<IoUring> ring_;  // not single issuer: every channel thread clones from it
};

}  // namespace multifd
