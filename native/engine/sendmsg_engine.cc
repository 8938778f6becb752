#include "engine/sendmsg_engine.h"

#include <netinet/in.h>

#include <algorithm>

#include "base/census.h"
#include "base/iov.h"
#include "base/kernel_compat.h"

namespace multifd {
namespace {

// Sends that may be unreleased at once: each record may take several calls when sends come short.
constexpr uint32_t kLedgerCapacity = 1024;
// A reset connection releases at once; a second is for a machine that is busy elsewhere.
constexpr int kResetWaitMs = 1000;
// The stop flag is seen at least this often; a release or a shutdown wakes the poll at once.
constexpr int kPollMs = 100;

size_t total_bytes(const msghdr& message) {
  size_t bytes = 0;
  for (size_t i = 0; i < message.msg_iovlen; ++i) bytes += message.msg_iov[i].iov_len;
  return bytes;
}

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

Error stopped() { return Error::make(ErrorCode::kClosed, "the channel was told to stop"); }

}  // namespace

SendmsgEngine::SendmsgEngine(const SendmsgEngineOptions& options)
    : options_(options), ledger_(kLedgerCapacity, options.first_id) {
  const uint32_t count = options.zero_copy ? kZeroCopyRecords : 1;
  records_.reserve(count);
  free_.reserve(count);
  for (uint32_t i = 0; i < count; ++i) {
    records_.push_back(std::make_unique_for_overwrite<SendRecord>());
    records_.back()->index = i;
    records_.back()->unreleased_calls = 0;
    free_.push_back(records_.back().get());
  }
}

SendmsgEngine::~SendmsgEngine() {
  for (auto& record : records_) {
    if (record->unreleased_calls == 0) continue;
    // The kernel may still read it: it must never be reused, so it is not freed. Counted.
    static_cast<void>(record.release());
    census(Resource::kLeakedRecord).fetch_add(1, std::memory_order_relaxed);
  }
}

Result<SendRecord*> SendmsgEngine::acquire() {
  while (free_.empty()) {
    if (reap()) continue;
    if (options_.stop->load(std::memory_order_relaxed)) return stopped();
    if (auto waited = wait_for_notification(kPollMs); !waited) return waited.error();
  }
  SendRecord* const record = free_.back();
  free_.pop_back();
  record->iov_count = 0;
  record->bytes = 0;
  return record;
}

Result<void> SendmsgEngine::submit(SendRecord& record) {
  const uint64_t high = options_.water_marks->high_bytes.load(std::memory_order_relaxed);
  bool zero_copy = options_.zero_copy && high > 0 && record.bytes >= kZeroCopyMinBytes;
  if (zero_copy && unreleased_bytes() + record.bytes > high) {
    ++counters_.waits_at_high_water;
    const uint64_t low = options_.water_marks->low_bytes.load(std::memory_order_relaxed);
    // Low enough for this record, whatever the low-water mark says.
    const size_t room = high > record.bytes ? high - record.bytes : 0;
    if (auto flushed = flush(std::min(low, room)); !flushed) return flushed;
  }
  msghdr message{};
  message.msg_iov = record.iov.data();
  message.msg_iovlen = record.iov_count;
  size_t left = record.bytes;
  size_t call_limit = SIZE_MAX;
  record.submitting = true;
  while (left > 0) {
    auto step = send_some(message, zero_copy, call_limit);
    if (!step) {
      record.submitting = false;
      release_if_done(record);
      return step.error();
    }
    zero_copy = zero_copy && step->zero_copy;
    if (step->bytes == 0) continue;
    if (step->zero_copy) {
      ledger_.sent(record.index, step->bytes);
      ++record.unreleased_calls;
      counters_.unreleased_high_bytes =
          std::max<uint64_t>(counters_.unreleased_high_bytes, unreleased_bytes());
    }
    counters_.sent_bytes += step->bytes;
    left -= step->bytes;
    advance(message, step->bytes);
  }
  record.submitting = false;
  release_if_done(record);
  if (zero_copy) reap();  // what is ready, without waiting: keeps option memory small
  return {};
}

// One call. 0 bytes means: try again, perhaps smaller or with a copy.
Result<SendmsgEngine::SendStep> SendmsgEngine::send_some(msghdr& message, bool zero_copy,
                                                         size_t& call_limit) {
  while (zero_copy && ledger_.full()) {
    if (reap()) continue;
    if (options_.stop->load(std::memory_order_relaxed)) return stopped();
    if (auto waited = wait_for_notification(kPollMs); !waited) return waited.error();
  }
  std::array<iovec, kRecordIovMax> storage;
  const bool cut = call_limit < total_bytes(message);
  const msghdr front = cut ? front_of(message, call_limit, storage) : message;
  const int flags = MSG_NOSIGNAL | (zero_copy ? MSG_ZEROCOPY : 0);
  const ssize_t sent = options_.syscalls->send_guest(options_.fd, &front, flags);
  ++counters_.send_calls;
  if (sent > 0) return SendStep{static_cast<size_t>(sent), zero_copy};
  if (options_.stop->load(std::memory_order_relaxed)) return stopped();
  if (sent == 0 || errno == EINTR) return SendStep{0, zero_copy};
  if (errno == EAGAIN) {
    pollfd poll{options_.fd, POLLOUT, 0};
    options_.syscalls->poll(&poll, 1, kPollMs);
    return SendStep{0, zero_copy};
  }
  if (errno == ENOBUFS && zero_copy) {
    if (auto handled = on_enobufs(zero_copy, call_limit, total_bytes(front)); !handled) {
      return handled.error();
    }
    return SendStep{0, zero_copy};
  }
  return Error::from_errno("sendmsg", "sending %zu bytes failed", total_bytes(front));
}

// ENOBUFS is a result, not an error. With notifications outstanding they may hold the option
// memory, or their pages the locked memory: wait for some. With nothing outstanding a single send
// is larger than the limit allows and can never succeed: halve it, in the end copy it.
Result<void> SendmsgEngine::on_enobufs(bool& zero_copy, size_t& call_limit, size_t call_bytes) {
  const bool reaped = reap();
  if (reaped) {
    ++counters_.refused_by_optmem;
    return {};
  }
  ++counters_.refused_by_memlock;
  if (unreleased_bytes() > 0) return wait_for_notification(kPollMs);
  call_limit = call_bytes / 2;
  if (call_limit < kZeroCopyMinBytes) {
    zero_copy = false;
    call_limit = SIZE_MAX;
  }
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
  const auto released = ledger_.release(notification, [this](uint32_t index) {
    SendRecord& record = *records_[index];
    --record.unreleased_calls;
    release_if_done(record);
  });
  ++counters_.notifications;
  counters_.stray_notifications += released.unknown;
  (notification.copied ? counters_.copied_bytes : counters_.zero_copy_bytes) += released.bytes;
}

void SendmsgEngine::release_if_done(SendRecord& record) {
  if (!record.submitting && record.unreleased_calls == 0) free_.push_back(&record);
}

bool SendmsgEngine::reset() {
  // Dissolving the association sends RST and purges the send queue (connect(2), tcp_disconnect);
  // shutdown() alone would leave a stalled peer in charge of our memory.
  sockaddr unspecified{};
  unspecified.sa_family = AF_UNSPEC;
  ::connect(options_.fd, &unspecified, sizeof unspecified);
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
