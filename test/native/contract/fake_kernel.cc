// See fake_kernel.h.
#include "fake_kernel.h"

#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/iov.h"
#include "base/kernel_compat.h"

namespace fixture {

FakeKernel* FakeKernel::current_ = nullptr;

FakeKernel::FakeKernel(Faults faults, uint64_t seed, uint32_t first_id)
    : FakeWire(faults, seed), next_id_(first_id) {
  current_ = this;
}

FakeKernel::~FakeKernel() { current_ = nullptr; }

const multifd::Syscalls& FakeKernel::table() const {
  static const multifd::Syscalls table = {
      [](int, const msghdr* message, int flags) { return current_->send(message, flags); },
      nullptr,  // an engine never receives
      [](int, msghdr* message) { return current_->receive_error_queue(message); },
      [](pollfd* fds, nfds_t count, int) { return current_->poll(fds, count); },
      [](int, tcp_info* out) { return current_->tcp_state(*out); },
      [](int) { return current_->option_memory_full_; },
      [](int, const iovec* parts, size_t count) { return current_->fill_pipe(parts, count); },
      [](int, int, size_t bytes, unsigned flags) { return current_->drain_pipe(bytes, flags); }};
  return table;
}

int FakeKernel::tcp_state(tcp_info& out) const {
  out.tcpi_notsent_bytes = runs_dry ? 0 : 1;
  return 0;
}

int FakeKernel::refusal(size_t bytes, bool zero_copy) {
  if (fail_sends_with != 0) return fail_sends_with;
  if (chance(faults_.interrupted)) return EINTR;
  if (is_full() || chance(faults_.eagain)) return EAGAIN;
  if (!zero_copy) return 0;
  const bool memory_in_use = pending_sends() > 0 || !notifications_.empty();
  option_memory_full_ = memory_in_use && chance(faults_.option_memory);
  return option_memory_full_ || bytes > faults_.zero_copy_max ? ENOBUFS : 0;
}

ssize_t FakeKernel::send(const msghdr* message, int flags) {
  last_flags = flags;
  size_t bytes = 0;
  for (size_t i = 0; i < message->msg_iovlen; ++i) bytes += message->msg_iov[i].iov_len;
  const bool zero_copy = (flags & MSG_ZEROCOPY) != 0;
  if (const int refused = refusal(bytes, zero_copy); refused != 0) {
    errno = refused;
    return -1;
  }
  bytes = std::min(bytes, faults_.send_max);
  if (chance(faults_.short_send)) bytes = 1 + random_.below(bytes);
  accept(message->msg_iov, bytes, zero_copy, next_id_);
  if (zero_copy) ++next_id_;
  return static_cast<ssize_t>(bytes);
}

// A page takes a slot, however little of it there is.
ssize_t FakeKernel::fill_pipe(const iovec* parts, size_t count) {
  CHECK(piped_.empty());  // else the real one might wait
  if (refuse_fill != 0 || chance(faults_.interrupted)) {
    errno = refuse_fill != 0 ? refuse_fill : EINTR;
    return -1;
  }
  constexpr uintptr_t kPage = 4096;
  size_t bytes = 0;
  size_t slots = chance(faults_.short_send) ? 1 + random_.below(pipe_slots) : pipe_slots;
  for (size_t i = 0; i < count; ++i) {
    const auto at = reinterpret_cast<uintptr_t>(parts[i].iov_base);
    iovec piped{parts[i].iov_base, 0};
    while (slots > 0 && piped.iov_len < parts[i].iov_len) {
      const uintptr_t in_page = kPage - (at + piped.iov_len) % kPage;
      piped.iov_len = std::min<size_t>(parts[i].iov_len, piped.iov_len + in_page);
      --slots;
    }
    if (piped.iov_len > 0) piped_.push_back(piped);
    bytes += piped.iov_len;
  }
  return static_cast<ssize_t>(bytes);
}

// Read when somebody asks what arrived: what is spliced is not copied before.
ssize_t FakeKernel::drain_pipe(size_t bytes, unsigned flags) {
  CHECK(!piped_.empty());
  last_flags = (flags & SPLICE_F_MORE) != 0 ? MSG_MORE : 0;
  const int refused = refuse_drain != 0 ? refuse_drain : refusal(bytes, false);
  if (refused != 0) {
    errno = refused;
    return -1;
  }
  if (chance(faults_.short_send)) bytes = 1 + random_.below(bytes);
  msghdr message{};
  message.msg_iov = piped_.data();
  message.msg_iovlen = piped_.size();
  accept(piped_.data(), bytes, true, 0);
  multifd::advance(message, bytes);
  piped_.erase(piped_.begin(), piped_.end() - static_cast<ptrdiff_t>(message.msg_iovlen));
  return static_cast<ssize_t>(bytes);
}

void FakeKernel::notify(const Pending& send) {
  const auto id = static_cast<uint32_t>(send.id);
  const bool copied = chance(faults_.copied);
  if (!notifications_.empty() && chance(faults_.coalesced)) {
    Queued& before = notifications_.back();
    if (before.last + 1 == id && before.copied == copied) {
      before.last = id;
      return;
    }
  }
  notifications_.push_back({id, id, copied});
}

ssize_t FakeKernel::receive_error_queue(msghdr* message) {
  if (notifications_.empty()) {
    errno = EAGAIN;
    return -1;
  }
  // One or two per call, of either family.
  const size_t count = std::min<size_t>(notifications_.size(), 1 + random_.below(2));
  message->msg_controllen = count * CMSG_SPACE(sizeof(sock_extended_err));
  // Declared zero: the macros of the C library look at the length of what follows.
  std::memset(message->msg_control, 0, message->msg_controllen);
  cmsghdr* control = CMSG_FIRSTHDR(message);
  for (size_t i = 0; i < count; ++i) {
    const size_t chosen = chance(faults_.out_of_order) ? random_.below(notifications_.size()) : 0;
    const Queued queued = notifications_[chosen];
    notifications_.erase(notifications_.begin() + static_cast<ptrdiff_t>(chosen));
    sock_extended_err error{};
    error.ee_origin = SO_EE_ORIGIN_ZEROCOPY;
    error.ee_info = queued.first;
    error.ee_data = queued.last;
    error.ee_code = queued.copied ? SO_EE_CODE_ZEROCOPY_COPIED : 0;
    const bool ipv6 = random_.below(2) == 0;
    control->cmsg_level = ipv6 ? SOL_IPV6 : SOL_IP;
    control->cmsg_type = ipv6 ? IPV6_RECVERR : IP_RECVERR;
    control->cmsg_len = CMSG_LEN(sizeof error);
    std::memcpy(CMSG_DATA(control), &error, sizeof error);
    control = CMSG_NXTHDR(message, control);
  }
  return 0;
}

int FakeKernel::poll(pollfd* fds, nfds_t count) {
  if (on_poll) on_poll();
  if (chance(faults_.interrupted)) {
    errno = EINTR;
    return -1;
  }
  if (!never_completes && pending_sends() > 0 && !chance(faults_.late)) notify(finish());
  if (chance(faults_.stray)) {
    // Never an id that is outstanding or soon to be.
    const uint32_t id = next_id_ + (1U << 30) + static_cast<uint32_t>(random_.below(1U << 20));
    forge(id, id + static_cast<uint32_t>(random_.below(4)));
  }
  if (count == 0 || notifications_.empty()) return 0;
  fds[0].revents = POLLERR;
  return 1;
}

}  // namespace fixture
