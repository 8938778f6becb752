// Tests of a real ring, of the probe, and of memory that several rings share.
#include <sys/socket.h>
#include <sys/stat.h>

#include <atomic>
#include <fstream>
#include <string>
#include <thread>

#include "base/census.h"
#include "base/io_uring.h"
#include "engine/probe.h"
#include "engine/registered_memory.h"
#include "check.h"
#include "tcp_pair.h"

namespace contract {

namespace {

using multifd::Ability;
using multifd::Completion;
using multifd::IoUring;
using multifd::RegisteredMemory;
using multifd::Resource;

std::unique_ptr<IoUring> ring_of(multifd::IoUringOptions options = {}) {
  auto ring = IoUring::create(options);
  if (!ring) SKIP(std::string(ring.error().detail));
  return std::move(*ring);
}

TEST("requests come back in any number, and a full ring says so") {
  const auto ring = ring_of({.requests = 4});
  for (int turn = 0; turn < 50; ++turn) {
    for (uint64_t i = 0; i < 4; ++i) {
      io_uring_sqe* const request = ring->next_request();
      CHECK(request != nullptr);
      CHECK_EQ(request->user_data, 0U);  // nothing is left of the turn before
      request->opcode = IORING_OP_NOP;
      request->user_data = 100 + i;
    }
    CHECK(ring->next_request() == nullptr);
    CHECK_OK(ring->enter(4, 1000));
    Completion completion;
    for (uint64_t i = 0; i < 4; ++i) {
      CHECK(ring->next_completion(completion));
      CHECK_EQ(completion.user_data, 100 + i);
      CHECK_EQ(completion.result, 0);
    }
    CHECK(!ring->next_completion(completion));
  }
}

TEST("a wait ends after its time without an error") {
  const auto ring = ring_of();
  CHECK_OK(ring->enter(1, 1));
  Completion completion;
  CHECK(!ring->next_completion(completion));
}

TEST("a ring is counted while it lives, and closes its socket with itself") {
  const int64_t before = multifd::census(Resource::kRing).load();
  Pair pair = unix_pair();
  {
    const auto ring = ring_of();
    CHECK_EQ(multifd::census(Resource::kRing).load(), before + 1);
    CHECK_OK(ring->register_file(pair.sender.get()));
    pair.sender.reset();
    char byte = 0;  // the ring holds it open
    CHECK_EQ(recv(pair.receiver.get(), &byte, 1, MSG_DONTWAIT), -1);
  }
  CHECK_EQ(multifd::census(Resource::kRing).load(), before);
  char byte = 0;
  CHECK_EQ(recv(pair.receiver.get(), &byte, 1, 0), 0);  // the end of the stream
}

TEST("what the probe finds is there, and what is not there has a reason") {
  const int64_t rings = multifd::census(Resource::kRing).load();
  const int64_t sockets = multifd::census(Resource::kSocket).load();
  const auto found = multifd::probe_io_uring();
  for (const Ability* ability :
       {&found.io_uring, &found.send_zero_copy, &found.sendmsg_zero_copy, &found.usage_report,
        &found.fixed_send, &found.fixed_sendmsg, &found.clone_buffers}) {
    CHECK_EQ(ability->there, ability->reason[0] == '\0');
  }
  if (!found.io_uring) CHECK(!found.send_zero_copy);
  CHECK_EQ(multifd::census(Resource::kRing).load(), rings);
  CHECK_EQ(multifd::census(Resource::kSocket).load(), sockets);
}

TEST("one registration serves the rings of several threads, and outlives its own ring") {
  const auto found = multifd::probe_io_uring();
  if (!found.fixed_send) SKIP(std::string(found.fixed_send.reason));
  std::vector<uint8_t> bytes(64 * 1024, 7);
  const iovec range{bytes.data(), bytes.size()};
  auto made = RegisteredMemory::create({&range, 1});
  CHECK_OK(made);
  std::atomic<int> sent{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([memory = *made, &bytes, &sent] {
      Pair pair = tcp_pair(false);
      const auto ring = ring_of();
      CHECK_OK(memory->share_with(*ring));
      io_uring_sqe* const request = ring->next_request();
      request->opcode = IORING_OP_SEND_ZC;
      request->fd = pair.sender.get();
      request->ioprio = IORING_RECVSEND_FIXED_BUF;
      request->addr = reinterpret_cast<uint64_t>(bytes.data());
      request->len = static_cast<uint32_t>(bytes.size());
      request->msg_flags = MSG_WAITALL;
      CHECK_OK(ring->enter(1, 10'000));
      Completion completion;
      CHECK(ring->next_completion(completion));
      CHECK_EQ(completion.result, static_cast<int>(bytes.size()));
      std::vector<uint8_t> arrived(bytes.size());
      CHECK_EQ(recv(pair.receiver.get(), arrived.data(), arrived.size(), MSG_WAITALL),
               static_cast<ssize_t>(arrived.size()));
      CHECK(arrived == bytes);
      ++sent;
    });
  }
  made = multifd::Error{};  // the threads hold it
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(sent.load(), 3);
}

// KiB that this program has pinned (VmPin in /proc/self/status).
long pinned_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmPin:")) return std::stol(line.substr(6));
  }
  return 0;
}

TEST("memory is no longer pinned when the last ring that has it is gone") {
  const auto found = multifd::probe_io_uring();
  if (!found.fixed_send) SKIP(std::string(found.fixed_send.reason));
  constexpr long kKiB = 4096;
  std::vector<uint8_t> bytes(kKiB * 1024);
  const iovec range{bytes.data(), bytes.size()};
  auto made = RegisteredMemory::create({&range, 1});
  CHECK_OK(made);
  const long pinned = pinned_kib();
  CHECK(pinned >= kKiB);
  {
    const auto ring = ring_of();
    CHECK_OK((*made)->share_with(*ring));
    made = multifd::Error{};
  }
  CHECK(pinned_kib() <= pinned - kKiB);
}

}  // namespace

}  // namespace contract
