#include "engine/probe.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <optional>

#include "base/io_uring.h"

namespace multifd {
namespace {

constexpr size_t kTrialBytes = 4096;
constexpr int kTrialWaitMs = 1000;  // a trial takes microseconds; the bound is for a broken kernel

[[gnu::format(printf, 1, 2)]] Ability missing(const char* format, ...) {
  Ability ability;
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(ability.reason, sizeof ability.reason, format, arguments);
  va_end(arguments);
  return ability;
}

Ability there() {
  Ability ability;
  ability.there = true;
  return ability;
}

// The value of kernel.io_uring_disabled (since 6.6): 0, 1, 2, or -1 where there is none.
int disabled_setting() {
  std::FILE* const file = std::fopen("/proc/sys/kernel/io_uring_disabled", "re");
  if (file == nullptr) return -1;
  int value = -1;
  if (std::fscanf(file, "%d", &value) != 1) value = -1;
  std::fclose(file);
  return value;
}

Ability why_no_ring(const Error& error) {
  const int setting = disabled_setting();
  switch (error.errno_value) {
    case ENOSYS:
      return missing("this kernel has no io_uring, or a seccomp filter hides it");
    case EPERM:
    case EACCES:
      if (setting == 2) {
        return missing("io_uring is switched off here: kernel.io_uring_disabled is 2");
      }
      if (setting == 1 && ::geteuid() != 0) {
        return missing("io_uring is for privileged programs here: kernel.io_uring_disabled is 1, "
                       "and this user is not in kernel.io_uring_group");
      }
      return missing("io_uring is refused to this program by a seccomp filter (containers have "
                     "one) or a security module");
    case EINVAL:
      return missing("this kernel's io_uring is too old: it refused every set-up we know");
    case ENOMEM:
      return missing("there is no memory for an io_uring: the locked-memory limit of this user "
                     "(ulimit -l) may be used up");
    default:
      return missing("%s: %s", error.detail, std::strerror(error.errno_value));
  }
}

struct Connection {
  UniqueFd sender;
  UniqueFd receiver;
};

// TCP over loopback: zero-copy is a matter of the protocol, and a UNIX pair has none.
template <typename Address>
std::optional<Connection> connect_over(Address address) {
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof address;
  const int type = SOCK_STREAM | SOCK_CLOEXEC;
  const UniqueFd listening(::socket(any->sa_family, type, 0), Resource::kSocket);
  Connection connection{UniqueFd(::socket(any->sa_family, type, 0), Resource::kSocket), {}};
  if (!listening || !connection.sender || ::bind(listening.get(), any, size) < 0 ||
      ::listen(listening.get(), 1) < 0 || ::getsockname(listening.get(), any, &size) < 0 ||
      ::connect(connection.sender.get(), any, size) < 0) {
    return std::nullopt;
  }
  connection.receiver =
      UniqueFd(::accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC), Resource::kSocket);
  if (!connection.receiver) return std::nullopt;
  return connection;
}

std::optional<Connection> loopback() {
  sockaddr_in ipv4{};
  ipv4.sin_family = AF_INET;
  ipv4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (auto connected = connect_over(ipv4)) return connected;
  sockaddr_in6 ipv6{};
  ipv6.sin6_family = AF_INET6;
  ipv6.sin6_addr = in6addr_loopback;
  return connect_over(ipv6);
}

// What a trial needs; the bytes are whole pages, so that they can be registered.
struct Trial {
  IoUring& ring;
  const Connection& connection;
  alignas(kTrialBytes) std::array<uint8_t, kTrialBytes> bytes{};

  // Sends once; 0, or the errno the kernel refused with.
  int send(uint8_t operation, uint16_t options);
};

int Trial::send(uint8_t operation, uint16_t options) {
  // Two parts, as a record has: some kernels take a single one only.
  std::array<iovec, 2> parts = {iovec{bytes.data(), 1024}, iovec{bytes.data() + 2048, 1024}};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  io_uring_sqe* const request = ring.next_request();
  if (request == nullptr) return ENOBUFS;
  request->opcode = operation;
  request->fd = connection.sender.get();
  request->ioprio = options;
  request->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
  if (operation == IORING_OP_SEND_ZC) {
    request->addr = reinterpret_cast<uint64_t>(bytes.data());
    request->len = kTrialBytes / 2;
  } else {
    request->addr = reinterpret_cast<uint64_t>(&message);
    request->len = 1;
  }
  int result = ETIME;
  bool result_due = true;
  bool notification_due = false;
  for (int turns = 0; turns < 8 && (result_due || notification_due); ++turns) {
    if (auto entered = ring.enter(1, kTrialWaitMs); !entered) return entered.error().errno_value;
    Completion completion;
    while (ring.next_completion(completion)) {
      if ((completion.flags & IORING_CQE_F_NOTIF) != 0) {
        notification_due = false;
        continue;
      }
      result_due = false;
      notification_due = (completion.flags & IORING_CQE_F_MORE) != 0;
      result = completion.result < 0 ? -completion.result : 0;
    }
    // Zero-copy over loopback is released when the receiver has read, at the latest.
    std::array<uint8_t, 2 * kTrialBytes> drained;
    while (::recv(connection.receiver.get(), drained.data(), drained.size(), MSG_DONTWAIT) > 0) {
    }
  }
  return notification_due ? ETIME : result;
}

Ability tried(Trial& trial, uint8_t operation, uint16_t options, const char* what) {
  if (!trial.ring.supports(operation)) return missing("this kernel has no %s", what);
  const int refused = trial.send(operation, options);
  if (refused == 0) return there();
  if (refused == EINVAL) return missing("this kernel has no %s", what);
  return missing("a trial of %s failed: %s", what, std::strerror(refused));
}

void probe_fixed(Trial& trial, IoUringAbilities& found) {
  const iovec buffer{trial.bytes.data(), trial.bytes.size()};
  if (auto done = trial.ring.register_buffers({&buffer, 1}); !done) {
    const char* const cause = std::strerror(done.error().errno_value);
    found.fixed_send = missing("a trial buffer could not be registered: %s", cause);
    found.fixed_sendmsg = found.fixed_send;
    found.clone_buffers = found.fixed_send;
    return;
  }
  found.fixed_send = tried(trial, IORING_OP_SEND_ZC, IORING_RECVSEND_FIXED_BUF,
                           "zero-copy sends from registered buffers");
  found.fixed_sendmsg = tried(trial, IORING_OP_SENDMSG_ZC, IORING_RECVSEND_FIXED_BUF,
                              "scattered zero-copy sends from registered buffers");
  auto other = IoUring::create({.requests = 1, .completions = 2});
  if (!other) {
    found.clone_buffers = why_no_ring(other.error());
  } else if (auto cloned = (*other)->clone_buffers(trial.ring); !cloned) {
    found.clone_buffers =
        missing("this kernel cannot share registered buffers between rings (%s): each channel "
                "registers the memory itself", std::strerror(cloned.error().errno_value));
  } else {
    found.clone_buffers = there();
  }
}

}  // namespace

IoUringAbilities probe_io_uring() {
  IoUringAbilities found;
  const auto all_but_plain = [&found](const Ability& ability) {
    for (Ability* const each : {&found.send_zero_copy, &found.sendmsg_zero_copy,
                                &found.usage_report, &found.fixed_send, &found.fixed_sendmsg,
                                &found.clone_buffers}) {
      *each = ability;
    }
  };
  auto ring = IoUring::create({});
  if (!ring) {
    found.io_uring = why_no_ring(ring.error());
    all_but_plain(found.io_uring);
    return found;
  }
  found.setup_flags = (*ring)->setup_flags();
  const auto connection = loopback();
  if (!connection) {
    found.io_uring = there();
    all_but_plain(missing("there is no TCP over loopback to try it on: %s", std::strerror(errno)));
    return found;
  }
  Trial trial{**ring, *connection};
  found.io_uring = tried(trial, IORING_OP_SENDMSG, 0, "sendmsg through io_uring");
  if (!found.io_uring) {
    all_but_plain(found.io_uring);
    return found;
  }
  found.send_zero_copy = tried(trial, IORING_OP_SEND_ZC, 0, "zero-copy sends through io_uring");
  found.sendmsg_zero_copy =
      tried(trial, IORING_OP_SENDMSG_ZC, 0, "scattered zero-copy sends through io_uring");
  found.usage_report = tried(trial, IORING_OP_SENDMSG_ZC, IORING_SEND_ZC_REPORT_USAGE,
                             "report of what zero-copy sends through io_uring really did");
  probe_fixed(trial, found);
  return found;
}

}  // namespace multifd
