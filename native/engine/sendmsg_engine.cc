#include "engine/sendmsg_engine.h"

#include <netinet/in.h>

#include <algorithm>

#include "base/iov.h"
#include "base/kernel_compat.h"
#include "engine/connection.h"

namespace multifd {
namespace {

// Sends that may be unreleased at once: each record may take several calls when sends come short.
constexpr uint32_t kLedgerCapacity = 1024;
// A reset connection releases at once; a second is for a machine that is busy elsewhere.
constexpr int kResetWaitMs = 1000;

// A view of the front of `message` with at most `limit` bytes; `storage` holds the cut iovec list.
msghdr front_of(const msghdr& message, size_t limit, std::array<iovec, kRecordIovMax>& storage) {
  msghdr front{};
  front.msg_iov = storage.data();
  for (size_t i = 0; i < message.msg_iovlen && limit > 0; ++i) {
    const size_t size = std::min(limit, message.msg_iov[i].iov_len);
    storage[front.msg_iovlen++] = {message.msg_iov[i].iov_base, size};
    limit -= size;
  }
  return front;
}

}  // namespace

SendmsgEngine::SendmsgEngine(const SendmsgEngineOptions& options)
    : options_(options),
      pool_(options.zero_copy ? kZeroCopyRecords : 1),
      ledger_(kLedgerCapacity, options.first_id),
      gate_(*options.water_marks, counters_, *options.syscalls, options.fd) {}

Result<SendRecord*> SendmsgEngine::acquire() {
  for (;;) {
    if (SendRecord* const record = pool_.take(); record != nullptr) return record;
    if (reap()) continue;
    if (options_.stop->load(std::memory_order_relaxed)) return stopped();
    if (auto waited = wait_for_notification(kPollMs); !waited) return waited.error();
  }
}

Result<void> SendmsgEngine::submit(SendRecord& record) {
  Rest rest;
  rest.message.msg_iov = record.iov.data();
  rest.message.msg_iovlen = record.iov_count;
  rest.bytes = record.bytes;
  rest.more = record.more;
  rest.zero_copy = options_.zero_copy && gate_.admit(record);
  RecordPool::begin_submit(record);
  const auto sent = send_all(record, rest);
  pool_.end_submit(record);
  // What is ready, without waiting: keeps option memory small, and tells a policy that switched
  // zero-copy off how its last sends ended.
  if (sent && unreleased_bytes() > 0) reap();
  return sent;
}

Result<void> SendmsgEngine::send_all(SendRecord& record, Rest& rest) {
  while (rest.bytes > 0) {
    size_t bytes = rest.bytes;
    if (rest.zero_copy) {
      bytes = std::min(gate_.call_bytes(rest.bytes), rest.limit);
      if (auto room = make_room(bytes); !room) return room;
    }
    const bool zero_copy = rest.zero_copy;
    auto sent = send_some(rest, bytes);
    if (!sent) return sent.error();
    if (*sent == 0) continue;  // again, perhaps smaller or with a copy
    if (zero_copy) {
      ledger_.sent(record.index, *sent);
      ++record.unreleased_calls;
      gate_.accepted(unreleased_bytes());
    }
    counters_.sent_bytes += *sent;
    rest.bytes -= *sent;
    advance(rest.message, *sent);
  }
  return {};
}

// Before a zero-copy call: below the high mark, and with room in the ledger.
Result<void> SendmsgEngine::make_room(size_t call_bytes) {
  if (gate_.must_wait(unreleased_bytes(), call_bytes)) {
    reap();
    if (gate_.must_wait(unreleased_bytes(), call_bytes)) {
      if (auto flushed = flush(gate_.wait_target(call_bytes)); !flushed) return flushed;
      gate_.waited();
    }
  }
  while (ledger_.full()) {
    if (reap()) continue;
    if (options_.stop->load(std::memory_order_relaxed)) return stopped();
    if (auto waited = wait_for_notification(kPollMs); !waited) return waited;
  }
  return {};
}

// One call with the front of what is left; 0: nothing was accepted, try again.
Result<size_t> SendmsgEngine::send_some(Rest& rest, size_t bytes) {
  std::array<iovec, kRecordIovMax> storage;
  const msghdr front =
      bytes < rest.bytes ? front_of(rest.message, bytes, storage) : rest.message;
  const int flags =
      MSG_NOSIGNAL | (rest.zero_copy ? MSG_ZEROCOPY : 0) | (rest.more ? MSG_MORE : 0);
  const ssize_t sent = options_.syscalls->send_guest(options_.fd, &front, flags);
  ++counters_.send_calls;
  if (sent > 0) return static_cast<size_t>(sent);
  const int cause = sent == 0 ? 0 : errno;
  const bool stop = options_.stop->load(std::memory_order_relaxed);
  const auto handled = cause == ENOBUFS && rest.zero_copy && !stop
                           ? on_enobufs(rest, bytes)
                           : may_try_again({"sendmsg", options_.fd, cause, bytes},
                                           *options_.syscalls, *options_.stop);
  if (!handled) return handled.error();
  return size_t{0};
}

// ENOBUFS is a result, not an error. With notifications outstanding they may hold the option
// memory, or their pages the locked memory: wait for some. With nothing outstanding a single send
// is larger than the limit allows and can never succeed: halve it, in the end copy it. The kernel
// does not say which it was; the socket says how much option memory it has used.
Result<void> SendmsgEngine::on_enobufs(Rest& rest, size_t call_bytes) {
  const bool locked_memory =
      options_.locked_memory_limited && !options_.syscalls->option_memory_full(options_.fd);
  ++(locked_memory ? counters_.refused_by_memlock : counters_.refused_by_optmem);
  if (reap()) return {};
  if (unreleased_bytes() > 0) return wait_for_notification(kPollMs);
  rest.limit = call_bytes / 2;
  if (rest.limit < kZeroCopyMinBytes) rest.zero_copy = false;
  return {};
}

Result<void> SendmsgEngine::flush(size_t target_bytes) {
  while (unreleased_bytes() > target_bytes) {
    if (reap()) continue;
    if (options_.stop->load(std::memory_order_relaxed)) return stopped();
    if (auto waited = wait_for_notification(kPollMs); !waited) return waited;
  }
  return {};
}

Result<void> SendmsgEngine::wait_for_notification(int timeout_ms) {
  pollfd poll{options_.fd, 0, 0};  // POLLERR is always reported, and stands for the error queue
  const int ready = options_.syscalls->poll(&poll, 1, timeout_ms);
  if (ready < 0 && errno != EINTR) return Error::from_errno("poll", "waiting for releases failed");
  if (ready <= 0 || reap()) return {};
  // Readable without a notification: the connection itself broke.
  int socket_error = 0;
  socklen_t size = sizeof socket_error;
  ::getsockopt(options_.fd, SOL_SOCKET, SO_ERROR, &socket_error, &size);
  if (socket_error == 0) return {};
  errno = socket_error;
  return Error::from_errno("sendmsg", "the connection broke while sends were unreleased");
}

bool SendmsgEngine::reap() {
  bool progress = false;
  for (;;) {
    // Several notifications may come in one message; the kernel sends one or two (IPv4 or IPv6).
    alignas(cmsghdr) std::array<char, 512> control;
    msghdr message{};
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    if (options_.syscalls->receive_error_queue(options_.fd, &message) < 0) return progress;
    NotificationReader reader(message);
    Notification notification;
    while (reader.next(notification)) {
      apply(notification);
      progress = true;
    }
  }
}

void SendmsgEngine::apply(const Notification& notification) {
  const auto released =
      ledger_.release(notification, [this](uint32_t index) { pool_.call_released(index); });
  ++counters_.notifications;
  counters_.stray_notifications += released.unknown;
  (notification.copied ? counters_.copied_bytes : counters_.zero_copy_bytes) += released.bytes;
}

bool SendmsgEngine::reset() {
  dissolve(options_.fd);
  for (int waited_ms = 0; unreleased_bytes() > 0 && waited_ms < kResetWaitMs;) {
    if (reap()) continue;
    pollfd poll{options_.fd, 0, 0};
    // A disconnected socket reports POLLHUP for ever, so the poll may not wait; sleep by it.
    if (options_.syscalls->poll(&poll, 1, 1) > 0) options_.syscalls->poll(nullptr, 0, 1);
    ++waited_ms;
  }
  return unreleased_bytes() == 0;
}

}  // namespace multifd
