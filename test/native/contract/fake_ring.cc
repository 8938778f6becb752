// See fake_ring.h.
#include "fake_ring.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace fixture {

class FakeRing::View final : public multifd::Ring {
 public:
  explicit View(FakeRing& ring) : ring_(ring) {}
  io_uring_sqe* next_request() override { return ring_.next_request(); }
  multifd::Result<void> enter(uint32_t wait_for, int) override {
    ring_.enter(wait_for);
    return {};
  }
  bool next_completion(multifd::Completion& out) override { return ring_.next_completion(out); }

 private:
  FakeRing& ring_;
};

std::unique_ptr<multifd::Ring> FakeRing::view() { return std::make_unique<View>(*this); }

const multifd::Syscalls& FakeRing::polls() {
  static const multifd::Syscalls table = {nullptr, nullptr, nullptr,
                                          [](pollfd*, nfds_t, int) { return 0; },
                                          [](int, tcp_info*) { return -1; },
                                          nullptr,  // no notification of a ring is charged
                                          nullptr, nullptr};
  return table;
}

io_uring_sqe* FakeRing::next_request() {
  if (filled_ == entries_.size()) return nullptr;
  entries_[filled_] = {};
  return &entries_[filled_++];
}

void FakeRing::enter(uint32_t) {
  if (on_poll) on_poll();
  while (!held_back_.empty()) {
    posted_.push_back(held_back_.front());
    held_back_.pop_front();
  }
  for (size_t first = 0; first < filled_;) {
    size_t count = 1;
    while ((entries_[first + count - 1].flags & IOSQE_IO_LINK) != 0) ++count;
    run_chain(first, count);
    first += count;
  }
  filled_ = 0;
  if (!never_completes && pending_sends() > 0 && !chance(faults_.late)) notify(finish());
  if (chance(faults_.stray)) {
    forge((uint64_t{0xFFFFFF} << 32) | random_.below(400), 0,
          random_.below(2) == 0 ? IORING_CQE_F_NOTIF : 0);
  }
}

bool FakeRing::next_completion(multifd::Completion& out) {
  if (posted_.empty()) return false;
  out = posted_.front();
  posted_.pop_front();
  return true;
}

void FakeRing::post(uint64_t user_data, int32_t result, uint32_t flags) {
  (chance(faults_.late) ? held_back_ : posted_).push_back({user_data, result, flags});
}

void FakeRing::run_chain(size_t first, size_t count) {
  longest_chain_ = std::max(longest_chain_, count);
  std::vector<Request> requests;
  int unprepared = 0;  // what a request was refused with before the chain began
  size_t unprepared_at = 0;
  for (size_t i = 0; i < count; ++i) {
    if (entries_[first + i].opcode == IORING_OP_ASYNC_CANCEL) {
      for (const uint64_t user_data : armed_) posted_.push_back({user_data, -ECANCELED, 0});
      armed_.clear();
      posted_.push_back({entries_[first + i].user_data, 0, 0});
      return;
    }
    requests.push_back(decode(entries_[first + i]));
    if (unprepared == 0 && requests[i].zero_copy && requests[i].bytes > faults_.zero_copy_max) {
      unprepared = ENOMEM;
      unprepared_at = i;
    }
  }
  bool broken = unprepared != 0;
  for (size_t i = 0; i < count; ++i) {
    const io_uring_sqe& entry = entries_[first + i];
    const Request& request = requests[i];
    if (broken) {
      refuse(entry, request, unprepared != 0 && i == unprepared_at ? unprepared : ECANCELED);
      continue;
    }
    if (is_full()) {
      armed_.push_back(entry.user_data);
      for (size_t k = i + 1; k < count; ++k) armed_.push_back(entries_[first + k].user_data);
      return;
    }
    if (const int error = refusal(request); error != 0) {
      broken = true;
      refuse(entry, request, error);
      continue;
    }
    size_t bytes = std::min(request.bytes, faults_.send_max);
    if (chance(faults_.short_send)) bytes = 1 + random_.below(bytes);
    broken = bytes < request.bytes;
    const bool notifies = request.zero_copy && !chance(faults_.no_notification);
    accept(request.parts.data(), bytes, notifies, entry.user_data);
    if (request.fixed) fixed_bytes_ += bytes;
    // Never held back when a notification follows: that one may be posted by this very enter.
    if (notifies) {
      posted_.push_back({entry.user_data, static_cast<int32_t>(bytes), IORING_CQE_F_MORE});
    } else {
      post(entry.user_data, static_cast<int32_t>(bytes), 0);
    }
  }
}

FakeRing::Request FakeRing::decode(const io_uring_sqe& entry) const {
  Request request;
  request.zero_copy =
      entry.opcode == IORING_OP_SEND_ZC || entry.opcode == IORING_OP_SENDMSG_ZC;
  request.fixed = (entry.ioprio & IORING_RECVSEND_FIXED_BUF) != 0;
  if (entry.opcode == IORING_OP_SEND_ZC) {
    request.parts.push_back({reinterpret_cast<void*>(entry.addr), entry.len});
  } else {
    CHECK(entry.opcode == IORING_OP_SENDMSG || entry.opcode == IORING_OP_SENDMSG_ZC);
    const auto* const message = reinterpret_cast<const msghdr*>(entry.addr);
    request.parts.assign(message->msg_iov, message->msg_iov + message->msg_iovlen);
  }
  CHECK((entry.msg_flags & MSG_WAITALL) != 0);
  CHECK(((entry.ioprio & IORING_SEND_ZC_REPORT_USAGE) != 0) == request.zero_copy);
  CHECK(!request.fixed || (request.zero_copy && buffers != nullptr));
  for (const iovec& part : request.parts) {
    request.bytes += part.iov_len;
    if (!request.fixed) continue;
    multifd::FixedBuffers::Part found;
    CHECK(buffers->find(part.iov_base, found));
    CHECK_EQ(found.buffer, uint32_t{entry.buf_index});
    CHECK(part.iov_len <= found.bytes);
  }
  CHECK(request.bytes > 0);
  return request;
}

int FakeRing::refusal(const Request& request) {
  if (fail_sends_with != 0) return fail_sends_with;
  if (request.fixed && faults_.refuse_fixed != 0) return faults_.refuse_fixed;
  if (request.zero_copy && faults_.refuse_zero_copy != 0) return faults_.refuse_zero_copy;
  if (chance(faults_.interrupted)) return EINTR;
  if (chance(faults_.eagain)) return EAGAIN;
  if (!request.zero_copy || pending_sends() == 0 || !chance(faults_.option_memory)) return 0;
  return random_.below(2) == 0 ? ENOBUFS : ENOMEM;
}

// A refused zero-copy request may have a notification all the same.
void FakeRing::refuse(const io_uring_sqe& entry, const Request& request, int error) {
  if (!request.zero_copy || random_.below(2) == 0) return post(entry.user_data, -error, 0);
  posted_.push_back({entry.user_data, -error, IORING_CQE_F_MORE});
  accept(nullptr, 0, true, entry.user_data);
}

void FakeRing::notify(const Pending& send) {
  const uint32_t usage = chance(faults_.copied) ? IORING_NOTIF_USAGE_ZC_COPIED : 0;
  posted_.push_back({send.id, static_cast<int32_t>(usage), IORING_CQE_F_NOTIF});
}

}  // namespace fixture
