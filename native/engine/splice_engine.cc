#include "engine/splice_engine.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>

#include <cerrno>
#include <cstring>
#include <span>

#include "base/iov.h"
#include "engine/connection.h"

namespace multifd {
namespace {

// A page takes one slot of a pipe. 128 pages are as fast as 256, the most that fs.pipe-max-size has
// by default, and let 128 channels of an unprivileged user share what fs.pipe-user-pages-soft has.
constexpr int kPipeBytes = 512 * 1024;
constexpr int kPipeBytesMin = 64 * 1024;  // what a pipe has by default: little slower

bool lies_in(const SendRecord& record, const iovec& part) {
  const auto* const at = static_cast<const uint8_t*>(part.iov_base);
  return at >= record.headers.data() && at < record.headers.data() + record.headers.size();
}

// The longest front of `parts` that is copied, or that is spliced.
size_t stretch_of(const SendRecord& record, std::span<const iovec> parts) {
  const bool copied = lies_in(record, parts.front());
  size_t count = 1;
  while (count < parts.size() && lies_in(record, parts[count]) == copied) ++count;
  return count;
}

// What a kernel or a sandbox answers that does not have these calls, or not for this socket or this
// memory. Anything else is about the connection.
bool is_refusal(int cause) {
  return cause == EINVAL || cause == ENOSYS || cause == EPERM || cause == EACCES ||
         cause == EOPNOTSUPP || cause == EFAULT || cause == ENOMEM;
}

}  // namespace

SpliceEngine::SpliceEngine(const SpliceEngineOptions& options) : options_(options) {
  sigset_t broken_pipe;
  sigemptyset(&broken_pipe);
  sigaddset(&broken_pipe, SIGPIPE);
  ::pthread_sigmask(SIG_BLOCK, &broken_pipe, nullptr);
}

// With the first pages: by then every channel is connected, and no pipe takes a descriptor away
// from a connection of which there must be all.
void SpliceEngine::open_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return step_down("pipe2", errno);
  pipe_out_ = UniqueFd(ends[0], Resource::kPipe);
  pipe_in_ = UniqueFd(ends[1], Resource::kPipe);
  if (::fcntl(pipe_in_.get(), F_SETPIPE_SZ, kPipeBytes) >= 0) return;
  const int cause = errno;
  // Refused where the user's pipes already hold fs.pipe-user-pages-soft. What is left of it then is
  // two pages: system calls for every 8 KiB cost more than the copy.
  if (::fcntl(pipe_in_.get(), F_GETPIPE_SZ) < kPipeBytesMin) step_down("F_SETPIPE_SZ", cause);
}

Result<SendRecord*> SpliceEngine::acquire() {
  // The one record is free unless its user has it: a submission ends before the next begins.
  if (SendRecord* const record = pool_.take(); record != nullptr) return record;
  return stopped();
}

Result<void> SpliceEngine::submit(SendRecord& record) {
  RecordPool::begin_submit(record);
  const std::span<iovec> parts(record.iov.data(), record.iov_count);
  // Bodies of its own are written anew when the record is used again.
  const bool copied =
      record.plain || record.own_bodies != nullptr || record.bytes < kZeroCopyMinBytes;
  Result<void> sent;
  for (size_t at = 0; at < parts.size() && sent;) {
    const size_t count = copied ? parts.size() : stretch_of(record, parts.subspan(at));
    const bool spliced = !copied && !lies_in(record, parts[at]);
    msghdr stretch{};
    stretch.msg_iov = &parts[at];
    stretch.msg_iovlen = count;
    at += count;
    const bool more = at < parts.size() || record.more;
    sent = spliced ? send_spliced(stretch, more) : send_copied(stretch, more);
  }
  pool_.end_submit(record);
  return sent;
}

Result<void> SpliceEngine::send_copied(msghdr rest, bool more) {
  size_t bytes = bytes_of(std::span(rest.msg_iov, rest.msg_iovlen));
  while (bytes > 0) {
    const int flags = MSG_NOSIGNAL | (more ? MSG_MORE : 0);
    const ssize_t sent = options_.syscalls->send_guest(options_.fd, &rest, flags);
    ++counters_.send_calls;
    if (sent <= 0) {
      auto again = after_failure("sendmsg", sent == 0 ? 0 : errno, bytes);
      if (!again) return again;
      continue;
    }
    counters_.sent_bytes += static_cast<size_t>(sent);
    bytes -= static_cast<size_t>(sent);
    advance(rest, static_cast<size_t>(sent));
  }
  return {};
}

// `rest` is always what the socket has not accepted: what a broken pipe still held is in it.
Result<void> SpliceEngine::send_spliced(msghdr rest, bool more) {
  size_t bytes = bytes_of(std::span(rest.msg_iov, rest.msg_iovlen));
  if (!pipe_out_ && mode() == SendMode::kSplice) open_pipe();
  while (bytes > 0) {
    if (!pipe_out_) return send_copied(rest, more);
    const ssize_t filled =
        options_.syscalls->fill_pipe(pipe_in_.get(), rest.msg_iov, rest.msg_iovlen);
    if (filled <= 0) {
      if (filled < 0 && errno == EINTR) continue;
      step_down("vmsplice", filled < 0 ? errno : EINVAL);
      continue;
    }
    for (auto left = static_cast<size_t>(filled); left > 0;) {
      auto drained = drain(left, more || bytes > left);
      if (!drained) return drained.error();
      if (*drained == 0) break;  // stepped down
      advance(rest, *drained);
      bytes -= *drained;
      left -= *drained;
    }
  }
  return {};
}

// From the pipe into the socket; 0: stepped down, and what the pipe held is gone with it.
Result<size_t> SpliceEngine::drain(size_t bytes, bool more) {
  for (;;) {
    const ssize_t sent = options_.syscalls->drain_pipe(pipe_out_.get(), options_.fd, bytes,
                                                       more ? SPLICE_F_MORE : 0);
    const int cause = sent == 0 ? 0 : errno;
    ++counters_.send_calls;
    if (sent > 0) {
      const auto accepted = static_cast<size_t>(sent);
      counters_.sent_bytes += accepted;
      counters_.zero_copy_tried_bytes += accepted;
      counters_.zero_copy_bytes += accepted;
      return accepted;
    }
    if (is_refusal(cause)) {
      step_down("splice", cause);
      return size_t{0};
    }
    if (auto again = after_failure("splice", cause, bytes); !again) return again.error();
  }
}

Result<void> SpliceEngine::after_failure(const char* syscall, int cause, size_t bytes) {
  return may_try_again({syscall, options_.fd, cause, bytes}, *options_.syscalls, *options_.stop);
}

void SpliceEngine::step_down(const char* syscall, int cause) {
  char why[160];
  std::snprintf(why, sizeof why, "%s is refused: %s", syscall, std::strerror(cause));
  downgrades_.add(SendMode::kSplice, SendMode::kPlain, DowngradeReason::kSendRefused, why);
  pipe_in_.reset();
  pipe_out_.reset();
}

bool SpliceEngine::reset() {
  dissolve(options_.fd);
  return true;  // no memory depends on it: the kernel holds the pages themselves
}

}  // namespace multifd
