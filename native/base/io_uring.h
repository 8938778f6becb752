// The kernel's io_uring interface by its own system calls: one ring, mapped, filled and reaped by
// one thread. It knows requests and completions, never what they send. `Ring` is the seam: tests
// put a ring of their own below the engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <sys/uio.h>

#include "base/kernel_compat.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace multifd {

struct Completion {
  uint64_t user_data = 0;
  int32_t result = 0;   // as the request's system call, or a negative errno
  uint32_t flags = 0;   // IORING_CQE_F_*
};

class Ring {
 public:
  virtual ~Ring() = default;
  // A zeroed request to fill; it is submitted by the next enter(). Null: no room before that.
  virtual io_uring_sqe* next_request() = 0;
  // Submits what was filled, lets the kernel post what is ready, and waits until at least
  // `wait_for` completions can be taken or the time is over: either is success, as is a signal.
  virtual Result<void> enter(uint32_t wait_for, int timeout_ms) = 0;
  // Takes the oldest completion; false: none is posted.
  virtual bool next_completion(Completion& out) = 0;
};

struct IoUringOptions {
  uint32_t requests = 16;      // 1 .. 32768, rounded up by the kernel to a power of two
  uint32_t completions = 512;  // more are kept by the kernel until there is room
  // Only the creating thread submits and reaps, and completions are posted only in enter(). Where
  // the kernel has neither the next best is taken; see IoUring::setup_flags().
  bool single_issuer = true;
};

class IoUring final : public Ring {
 public:
  static Result<std::unique_ptr<IoUring>> create(const IoUringOptions& options);
  ~IoUring() override;
  IoUring(const IoUring&) = delete;
  IoUring& operator=(const IoUring&) = delete;

  io_uring_sqe* next_request() override;
  Result<void> enter(uint32_t wait_for, int timeout_ms) override;
  bool next_completion(Completion& out) override;

  // The socket becomes file 0 of the ring (IOSQE_FIXED_FILE). The ring then holds it open too.
  Result<void> register_file(int fd);
  // Buffers 0 .. n-1, at most 1 GiB each. Makes every page resident and pins it.
  Result<void> register_buffers(std::span<const iovec> buffers);
  // Takes over every buffer of `from`, which no other thread may be changing.
  Result<void> clone_buffers(const IoUring& from);
  // IORING_REGISTER_PROBE: whether the kernel knows IORING_OP_`operation`.
  [[nodiscard]] bool supports(unsigned operation) const;
  // IORING_SETUP_* that the kernel accepted.
  [[nodiscard]] uint32_t setup_flags() const { return setup_flags_; }

 private:
  class Mapped {
   public:
    Mapped() = default;
    ~Mapped();
    Mapped(const Mapped&) = delete;
    Mapped& operator=(const Mapped&) = delete;
    Result<void> map(int fd, size_t size, off_t offset);
    template <typename T>
    [[nodiscard]] T* at(size_t offset) const {
      return reinterpret_cast<T*>(static_cast<uint8_t*>(base_) + offset);
    }

   private:
    void* base_ = nullptr;
    size_t size_ = 0;
  };
  IoUring(UniqueFd fd, const io_uring_params& params);
  Result<void> map(const io_uring_params& params);

  // Declared in this order so that destruction runs rings -> fd.
  const UniqueFd fd_;
  Mapped rings_;
  Mapped requests_;
  const uint32_t setup_flags_;
  bool file_registered_ = false;
  bool buffers_registered_ = false;

  uint32_t* request_head_ = nullptr;  // written by the kernel
  uint32_t* request_tail_ = nullptr;
  uint32_t request_mask_ = 0;
  uint32_t filled_ = 0;     // tail of what was handed out
  uint32_t unsubmitted_ = 0;
  uint32_t* completion_head_ = nullptr;
  uint32_t* completion_tail_ = nullptr;  // written by the kernel
  uint32_t completion_mask_ = 0;
  const io_uring_cqe* completions_ = nullptr;
};

}  // namespace multifd
