#include "base/io_uring.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>

namespace multifd {
namespace {

int setup(uint32_t requests, io_uring_params& params) {
  return static_cast<int>(::syscall(SYS_io_uring_setup, requests, &params));
}

int registered(int fd, unsigned operation, const void* argument, unsigned count) {
  return static_cast<int>(::syscall(SYS_io_uring_register, fd, operation, argument, count));
}

// What every ring needs: a chain that breaks while it is submitted must still be submitted whole,
// for its rest would otherwise go out as a chain of its own, ahead of what failed.
constexpr uint32_t kAlways = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
constexpr uint32_t kFeatures = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP |
                               IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_FAST_POLL |
                               IORING_FEAT_EXT_ARG;
// From the best to the plainest. A kernel refuses flags it does not know with EINVAL.
constexpr std::array<uint32_t, 4> kSingleIssuer = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN, IORING_SETUP_COOP_TASKRUN, 0};
constexpr std::array<uint32_t, 2> kAnyIssuer = {IORING_SETUP_COOP_TASKRUN, 0};

}  // namespace

IoUring::Mapped::~Mapped() {
  if (base_ != nullptr) ::munmap(base_, size_);
}

Result<void> IoUring::Mapped::map(int fd, size_t size, off_t offset) {
  void* const base =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);
  if (base == MAP_FAILED) return Error::from_errno("mmap", "mapping an io_uring failed");
  base_ = base;
  size_ = size;
  return {};
}

Result<std::unique_ptr<IoUring>> IoUring::create(const IoUringOptions& options) {
  const std::span<const uint32_t> flags =
      options.single_issuer ? std::span<const uint32_t>(kSingleIssuer) : kAnyIssuer;
  io_uring_params params{};
  int fd = -1;
  for (const uint32_t wanted : flags) {
    params = {};
    params.flags = wanted | kAlways;
    params.cq_entries = std::max(options.completions, 2 * options.requests);
    fd = setup(options.requests, params);
    if (fd >= 0 || errno != EINVAL) break;
  }
  if (fd < 0) return Error::from_errno("io_uring_setup", "creating an io_uring failed");
  std::unique_ptr<IoUring> ring(new IoUring(UniqueFd(fd, Resource::kRing), params));
  if ((params.features & kFeatures) != kFeatures) {
    errno = EOPNOTSUPP;
    return Error::from_errno("io_uring_setup",
                             "this kernel's io_uring has features 0x%x, expected 0x%x",
                             params.features, kFeatures);
  }
  if (auto mapped = ring->map(params); !mapped) return mapped.error();
  return ring;
}

IoUring::IoUring(UniqueFd fd, const io_uring_params& params)
    : fd_(std::move(fd)), setup_flags_(params.flags) {}

IoUring::~IoUring() {
  // Closing a ring lets go of its files at some later time; the peer waits for the end of the
  // stream now.
  if (file_registered_) registered(fd_.get(), IORING_UNREGISTER_FILES, nullptr, 0);
  // Nor does it unpin at once: locked memory would seem used up to whoever registers next.
  if (buffers_registered_) registered(fd_.get(), IORING_UNREGISTER_BUFFERS, nullptr, 0);
}

Result<void> IoUring::map(const io_uring_params& params) {
  const size_t request_end = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
  const size_t completion_end = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
  if (auto mapped = rings_.map(fd_.get(), std::max(request_end, completion_end),
                               static_cast<off_t>(IORING_OFF_SQ_RING));
      !mapped) {
    return mapped;
  }
  if (auto mapped = requests_.map(fd_.get(), params.sq_entries * sizeof(io_uring_sqe),
                                  static_cast<off_t>(IORING_OFF_SQES));
      !mapped) {
    return mapped;
  }
  request_head_ = rings_.at<uint32_t>(params.sq_off.head);
  request_tail_ = rings_.at<uint32_t>(params.sq_off.tail);
  request_mask_ = params.sq_entries - 1;
  filled_ = *request_tail_;
  completion_head_ = rings_.at<uint32_t>(params.cq_off.head);
  completion_tail_ = rings_.at<uint32_t>(params.cq_off.tail);
  completion_mask_ = params.cq_entries - 1;
  completions_ = rings_.at<const io_uring_cqe>(params.cq_off.cqes);
  // Requests are used in their order, so the table of indices is filled once.
  auto* const indices = rings_.at<uint32_t>(params.sq_off.array);
  for (uint32_t i = 0; i < params.sq_entries; ++i) indices[i] = i;
  return {};
}

io_uring_sqe* IoUring::next_request() {
  const uint32_t head = std::atomic_ref(*request_head_).load(std::memory_order_acquire);
  if (filled_ - head > request_mask_) return nullptr;
  io_uring_sqe* const request = requests_.at<io_uring_sqe>(0) + (filled_ & request_mask_);
  *request = {};
  ++filled_;
  ++unsubmitted_;
  return request;
}

Result<void> IoUring::enter(uint32_t wait_for, int timeout_ms) {
  // Pairs with the kernel's acquire: the requests are filled before the tail covers them.
  std::atomic_ref(*request_tail_).store(filled_, std::memory_order_release);
  __kernel_timespec timeout{};
  timeout.tv_sec = timeout_ms / 1000;
  timeout.tv_nsec = (timeout_ms % 1000) * 1'000'000LL;
  io_uring_getevents_arg wait{};
  wait.sigmask_sz = _NSIG / 8;
  wait.ts = reinterpret_cast<uint64_t>(&timeout);
  const long taken = ::syscall(SYS_io_uring_enter, fd_.get(), unsubmitted_, wait_for,
                               IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &wait, sizeof wait);
  if (taken < 0) {
    // Nothing was submitted: the time is over, a signal came, or the kernel wants completions to
    // be taken (EBUSY) or memory (EAGAIN) first. The caller looks at what came, and comes again.
    if (errno == ETIME || errno == EINTR || errno == EBUSY || errno == EAGAIN) return {};
    return Error::from_errno("io_uring_enter", "submitting %u requests failed", unsubmitted_);
  }
  const auto submitted = static_cast<uint32_t>(taken);
  unsubmitted_ -= std::min(submitted, unsubmitted_);
  if (submitted == 0 || unsubmitted_ == 0) return {};
  // Half a chain: its rest must never go out on its own.
  errno = ENOMEM;
  return Error::from_errno("io_uring_enter", "the kernel took %u requests of a chain and left %u",
                           submitted, unsubmitted_);
}

bool IoUring::next_completion(Completion& out) {
  const uint32_t head = *completion_head_;
  // Pairs with the kernel's release: a completion below the tail is written.
  if (head == std::atomic_ref(*completion_tail_).load(std::memory_order_acquire)) return false;
  const io_uring_cqe& completion = completions_[head & completion_mask_];
  out = {completion.user_data, completion.res, completion.flags};
  std::atomic_ref(*completion_head_).store(head + 1, std::memory_order_release);
  return true;
}

Result<void> IoUring::register_file(int fd) {
  if (registered(fd_.get(), IORING_REGISTER_FILES, &fd, 1) < 0) {
    return Error::from_errno("io_uring_register", "registering a socket with an io_uring failed");
  }
  file_registered_ = true;
  return {};
}

Result<void> IoUring::register_buffers(std::span<const iovec> buffers) {
  if (registered(fd_.get(), IORING_REGISTER_BUFFERS, buffers.data(),
                 static_cast<unsigned>(buffers.size())) < 0) {
    return Error::from_errno("io_uring_register", "registering %zu buffers with an io_uring failed",
                             buffers.size());
  }
  buffers_registered_ = true;
  return {};
}

Result<void> IoUring::clone_buffers(const IoUring& from) {
  CloneBuffersArgument argument{};
  argument.source_fd = static_cast<uint32_t>(from.fd_.get());
  if (registered(fd_.get(), kRegisterCloneBuffers, &argument, 1) < 0) {
    return Error::from_errno("io_uring_register",
                             "taking over the buffers of another io_uring failed");
  }
  buffers_registered_ = true;
  return {};
}

bool IoUring::supports(unsigned operation) const {
  constexpr unsigned kOperations = 256;
  alignas(io_uring_probe) std::array<
      uint8_t, sizeof(io_uring_probe) + kOperations * sizeof(io_uring_probe_op)> bytes{};
  auto* const probe = reinterpret_cast<io_uring_probe*>(bytes.data());
  if (registered(fd_.get(), IORING_REGISTER_PROBE, probe, kOperations) < 0) return false;
  return operation <= probe->last_op &&
         (probe->ops[operation].flags & IO_URING_OP_SUPPORTED) != 0;
}

}  // namespace multifd
