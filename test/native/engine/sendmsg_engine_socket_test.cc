// Tests of the sendmsg engine over real sockets: a UNIX pair, and TCP over loopback with the
// kernel's own zero-copy (which copies there, and says so).
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "base/kernel_compat.h"
#include "base/unique_fd.h"
#include "check.h"
#include "engine/sendmsg_engine.h"

namespace {

using multifd::Resource;
using multifd::SendmsgEngine;
using multifd::SendRecord;
using multifd::UniqueFd;
using multifd::WaterMarks;

struct Pair {
  UniqueFd sender;
  UniqueFd receiver;
};

Pair unix_pair() {
  std::array<int, 2> fds{};
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()), 0);
  return {UniqueFd(fds[0], Resource::kSocket), UniqueFd(fds[1], Resource::kSocket)};
}

Pair tcp_pair(bool zero_copy) {
  const UniqueFd listening(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), Resource::kSocket);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  CHECK_EQ(bind(listening.get(), any, size), 0);
  CHECK_EQ(listen(listening.get(), 1), 0);
  CHECK_EQ(getsockname(listening.get(), any, &size), 0);
  UniqueFd sender(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), Resource::kSocket);
  CHECK_EQ(connect(sender.get(), any, size), 0);
  if (zero_copy) {
    const int on = 1;
    if (setsockopt(sender.get(), SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on) != 0) {
      SKIP("this kernel has no SO_ZEROCOPY for TCP");
    }
  }
  UniqueFd receiver(accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC), Resource::kSocket);
  return {std::move(sender), std::move(receiver)};
}

// Sends `records` random records, reads them in another thread, and compares.
void exchange(const Pair& pair, bool zero_copy, int records) {
  check::Random random(check::seed());
  std::vector<uint8_t> payload(1 << 20);
  for (uint8_t& byte : payload) byte = static_cast<uint8_t>(random.next());
  std::vector<uint8_t> arrived;
  std::thread reader([&] {
    std::array<uint8_t, 64 * 1024> bytes;
    for (ssize_t got; (got = read(pair.receiver.get(), bytes.data(), bytes.size())) > 0;) {
      arrived.insert(arrived.end(), bytes.begin(), bytes.begin() + got);
    }
  });
  const WaterMarks marks{4 << 20, 1 << 20};
  const std::atomic<bool> stop{false};
  SendmsgEngine engine({.fd = pair.sender.get(),
                        .zero_copy = zero_copy,
                        .water_marks = &marks,
                        .stop = &stop});
  std::vector<uint8_t> expected;
  for (int i = 0; i < records; ++i) {
    auto acquired = engine.acquire();
    CHECK_OK(acquired);
    SendRecord& record = **acquired;
    record.headers[0].fill(static_cast<uint8_t>(i));
    record.add(record.headers[0].data(), record.headers[0].size());
    for (uint64_t part = random.below(100); part > 0; --part) {
      const size_t size = 1 + random.below(8192);
      record.add(payload.data() + random.below(payload.size() - size), size);
    }
    for (uint32_t part = 0; part < record.iov_count; ++part) {
      const auto* const from = static_cast<const uint8_t*>(record.iov[part].iov_base);
      expected.insert(expected.end(), from, from + record.iov[part].iov_len);
    }
    CHECK_OK(engine.submit(record));
  }
  CHECK_OK(engine.flush(0));
  CHECK_EQ(engine.unreleased_bytes(), 0U);
  shutdown(pair.sender.get(), SHUT_WR);
  reader.join();
  CHECK_EQ(arrived.size(), expected.size());
  CHECK(arrived == expected);
  CHECK_EQ(engine.counters().sent_bytes, uint64_t{expected.size()});
  CHECK_EQ(engine.counters().stray_notifications, 0U);
}

TEST("bytes arrive in order over a UNIX pair") { exchange(unix_pair(), false, 40); }

TEST("bytes arrive in order over TCP, copied") { exchange(tcp_pair(false), false, 40); }

TEST("bytes arrive in order over TCP with zero-copy, and everything is released") {
  exchange(tcp_pair(true), true, 60);
}

TEST("with a stalled peer a stopped engine returns, and a reset releases everything in flight") {
  const Pair pair = tcp_pair(true);
  const WaterMarks marks{64 << 20, 0};
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> sent{0};
  std::vector<uint8_t> payload(512 * 1024, 1);
  SendmsgEngine engine(
      {.fd = pair.sender.get(), .zero_copy = true, .water_marks = &marks, .stop = &stop});
  std::thread sender([&] {
    for (;;) {
      auto acquired = engine.acquire();
      if (!acquired) return;
      (*acquired)->add(payload.data(), payload.size());
      if (!engine.submit(**acquired)) return;
      sent = engine.counters().sent_bytes;
    }
  });
  while (sent < (1 << 20)) std::this_thread::yield();  // in flight: nobody reads
  stop = true;
  shutdown(pair.sender.get(), SHUT_RDWR);
  sender.join();
  CHECK(engine.reset());
  CHECK_EQ(engine.unreleased_bytes(), 0U);
}

TEST("a peer that resets the connection is an error, not an endless wait") {
  Pair pair = tcp_pair(true);
  const WaterMarks marks{64 << 20, 0};
  const std::atomic<bool> stop{false};
  std::vector<uint8_t> payload(256 * 1024, 1);
  SendmsgEngine engine(
      {.fd = pair.sender.get(), .zero_copy = true, .water_marks = &marks, .stop = &stop});
  const linger at_once{1, 0};
  setsockopt(pair.receiver.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  pair.receiver.reset();
  bool failed = false;
  for (int i = 0; i < 1000 && !failed; ++i) {
    auto acquired = engine.acquire();
    failed = !acquired;
    if (failed) break;
    (*acquired)->add(payload.data(), payload.size());
    failed = !engine.submit(**acquired);
  }
  CHECK(failed);
  CHECK(engine.reset());
}

}  // namespace
