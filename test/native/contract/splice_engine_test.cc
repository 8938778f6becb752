// Tests of what only the splice engine has: pages that are read when the peer reads them, and every
// way in which a kernel or a sandbox may refuse. What every engine must do is in contract_test.cc.
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "base/census.h"
#include "check.h"
#include "engine/splice_engine.h"
#include "fake_kernel.h"
#include "tcp_pair.h"

namespace contract {

namespace {

using fixture::FakeKernel;
using multifd::DowngradeReason;
using multifd::Resource;
using multifd::SendMode;
using multifd::SendRecord;
using multifd::SpliceEngine;

constexpr size_t kKiB = 1024;
constexpr size_t kHeader = 1344;

// An engine over a real connection.
struct OnSocket {
  explicit OnSocket(Pair connection) : pair(std::move(connection)) {}
  std::vector<uint8_t> read_all() {
    ::shutdown(pair.sender.get(), SHUT_WR);
    return Reader(pair.receiver.get()).join();
  }
  Pair pair;
  std::atomic<bool> stop{false};
  SpliceEngine engine{{.fd = pair.sender.get(), .stop = &stop}};
};

// The same over a kernel that refuses and comes short.
struct OnFake {
  explicit OnFake(fixture::Faults faults = {}) : kernel(faults, check::seed()) {}
  FakeKernel kernel;
  std::atomic<bool> stop{false};
  SpliceEngine engine{{.fd = -1, .stop = &stop, .syscalls = &kernel.table()}};
};

// Guest memory of its own mapping, a page each of another value.
class Memory {
 public:
  explicit Memory(size_t bytes)
      : bytes_(bytes),
        base_(static_cast<uint8_t*>(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    CHECK(base_ != MAP_FAILED);
    for (size_t at = 0; at < bytes; ++at) base_[at] = value_at(at);
  }
  ~Memory() { unmap(); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  void unmap() {
    if (base_ != nullptr) ::munmap(base_, bytes_);
    base_ = nullptr;
  }
  static uint8_t value_at(size_t at) { return static_cast<uint8_t>(1 + at / 4096 * 7 + at % 251); }
  [[nodiscard]] uint8_t* at(size_t offset) const { return base_ + offset; }

 private:
  const size_t bytes_;
  uint8_t* base_;
};

// A header of zeros and then the memory's first `bytes`.
SendRecord& fill(SpliceEngine& engine, const Memory& memory, size_t bytes) {
  auto acquired = engine.acquire();
  CHECK_OK(acquired);
  SendRecord& record = **acquired;
  std::fill_n(record.headers.begin(), kHeader, uint8_t{0});
  record.add(record.headers.data(), kHeader);
  record.add(memory.at(0), bytes);
  return record;
}

std::vector<uint8_t> expected(size_t bytes) {
  std::vector<uint8_t> all(kHeader, 0);
  for (size_t at = 0; at < bytes; ++at) all.push_back(Memory::value_at(at));
  return all;
}

TEST("spliced pages are not copied: what changes before the peer reads arrives changed") {
  OnSocket on(tcp_pair(false));
  const Memory memory(64 * kKiB);
  SendRecord& record = fill(on.engine, memory, 64 * kKiB);
  CHECK_OK(on.engine.submit(record));
  memory.at(0)[5] = 99;
  std::fill_n(record.headers.begin(), kHeader, uint8_t{1});  // but a header is copied
  auto bytes = expected(64 * kKiB);
  bytes[kHeader + 5] = 99;
  CHECK(on.read_all() == bytes);
  CHECK_EQ(on.engine.counters().zero_copy_bytes, 64 * kKiB);
  CHECK_EQ(on.engine.counters().sent_bytes, kHeader + 64 * kKiB);
}

TEST("what is not guest memory is copied") {
  OnSocket on(tcp_pair(false));
  const Memory memory(64 * kKiB);
  SendRecord& record = fill(on.engine, memory, 64 * kKiB);
  record.plain = true;
  CHECK_OK(on.engine.submit(record));
  std::memset(memory.at(0), 0, 64 * kKiB);
  CHECK(on.read_all() == expected(64 * kKiB));
  CHECK_EQ(on.engine.counters().zero_copy_bytes, 0U);
}

TEST("bodies of a record's own, which are written anew, are copied") {
  OnSocket on(tcp_pair(false));
  auto acquired = on.engine.acquire();
  CHECK_OK(acquired);
  SendRecord& record = **acquired;
  record.own_bodies = std::make_unique<uint8_t[]>(64 * kKiB);
  record.add(record.own_bodies.get(), 64 * kKiB);
  CHECK_OK(on.engine.submit(record));
  std::memset(record.own_bodies.get(), 255, 64 * kKiB);
  CHECK(on.read_all() == std::vector<uint8_t>(64 * kKiB, 0));
}

TEST("without a file descriptor for a pipe pages are copied, and it says so") {
  OnSocket on(tcp_pair(false));
  const Memory memory(64 * kKiB);
  SendRecord& record = fill(on.engine, memory, 64 * kKiB);
  rlimit before{};
  CHECK_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const multifd::UniqueFd next(::dup(on.pair.sender.get()), Resource::kSocket);
  const rlimit none{static_cast<rlim_t>(next.get()), before.rlim_max};
  CHECK_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto submitted = on.engine.submit(record);
  CHECK_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  CHECK_OK(submitted);
  CHECK(on.read_all() == expected(64 * kKiB));
  CHECK(on.engine.mode() == SendMode::kPlain);
  CHECK_EQ(std::string(on.engine.downgrades().last().sentence),
           std::string("plain instead of splice: pipe2 is refused: ") + std::strerror(EMFILE));
}

TEST("memory that is unmapped, or given back, arrives all the same") {
  for (const bool unmap : {true, false}) {
    OnSocket on(tcp_pair(false));
    Memory memory(256 * kKiB);
    CHECK_OK(on.engine.submit(fill(on.engine, memory, 256 * kKiB)));
    if (unmap) {
      memory.unmap();
    } else {
      CHECK_EQ(::madvise(memory.at(0), 256 * kKiB, MADV_DONTNEED), 0);
      std::memset(memory.at(0), 255, 256 * kKiB);  // other pages now
    }
    CHECK(on.read_all() == expected(256 * kKiB));
  }
}

TEST("splice over a UNIX pair") {
  OnSocket on(unix_pair());
  const Memory memory(1024 * kKiB);
  Reader reader(on.pair.receiver.get());
  auto bytes = expected(1024 * kKiB);
  for (int i = 0; i < 8; ++i) CHECK_OK(on.engine.submit(fill(on.engine, memory, 1024 * kKiB)));
  ::shutdown(on.pair.sender.get(), SHUT_WR);
  const auto got = reader.join();
  CHECK_EQ(got.size(), 8 * bytes.size());
  for (size_t i = 0; i < 8; ++i) {
    const auto from = got.begin() + static_cast<ptrdiff_t>(i * bytes.size());
    CHECK(std::equal(bytes.begin(), bytes.end(), from));
  }
}

TEST("the last part of a record is pushed, unless more records follow soon") {
  OnFake on;
  const Memory memory(2048 * kKiB);
  for (const bool more : {true, false}) {
    // More than a pipe holds, and in pieces.
    SendRecord& record = fill(on.engine, memory, 1024 * kKiB);
    record.add(memory.at(1040 * kKiB), 8 * kKiB);
    record.more = more;
    CHECK_OK(on.engine.submit(record));
    CHECK_EQ(on.kernel.last_flags != 0, more);
  }
}

TEST("a page that a pipe has room for is enough") {
  OnFake on({.short_send = 50});
  on.kernel.pipe_slots = 1;
  const Memory memory(256 * kKiB);
  CHECK_OK(on.engine.submit(fill(on.engine, memory, 256 * kKiB)));
  on.kernel.complete_all();
  CHECK(on.kernel.stream() == expected(256 * kKiB));
}

// The engine goes on plain, every byte goes out once, and it says why.
void expect_step_down(int FakeKernel::*refuse, int cause, const char* syscall) {
  const int64_t pipes = multifd::census(Resource::kPipe);
  OnFake on({.short_send = 30});
  const Memory memory(300 * kKiB);
  std::vector<uint8_t> bytes;
  for (int i = 0; i < 4; ++i) {
    if (i == 2) on.kernel.*refuse = cause;
    CHECK_OK(on.engine.submit(fill(on.engine, memory, 300 * kKiB)));
    const auto more = expected(300 * kKiB);
    bytes.insert(bytes.end(), more.begin(), more.end());
    CHECK(on.engine.mode() == (i < 2 ? SendMode::kSplice : SendMode::kPlain));
  }
  on.kernel.complete_all();
  CHECK(on.kernel.stream() == bytes);
  CHECK_EQ(on.engine.counters().sent_bytes, uint64_t{bytes.size()});
  CHECK_EQ(on.engine.counters().zero_copy_bytes, 2 * 300 * kKiB);
  CHECK_EQ(on.engine.downgrades().count(), 1U);
  CHECK(on.engine.downgrades().last().reason == DowngradeReason::kSendRefused);
  CHECK_EQ(std::string(on.engine.downgrades().last().sentence),
           std::string("plain instead of splice: ") + syscall +
               " is refused: " + std::strerror(cause));
  CHECK_EQ(multifd::census(Resource::kPipe).load(), pipes);  // it does not keep what it cannot use
}

TEST("a sandbox without vmsplice, or memory that it does not take: plain from there on") {
  for (const int cause : {ENOSYS, EPERM, EFAULT, ENOMEM, EINVAL}) {
    expect_step_down(&FakeKernel::refuse_fill, cause, "vmsplice");
  }
}

TEST("a socket that takes no splice: what the pipe held goes out plain, once") {
  for (const int cause : {EINVAL, ENOSYS, EPERM, EOPNOTSUPP}) {
    expect_step_down(&FakeKernel::refuse_drain, cause, "splice");
  }
}

TEST("a broken connection is not taken for a refusal") {
  OnFake on;
  const Memory memory(300 * kKiB);
  SendRecord& record = fill(on.engine, memory, 300 * kKiB);
  on.kernel.refuse_drain = EPIPE;
  const auto submitted = on.engine.submit(record);
  CHECK(!submitted);
  CHECK(submitted.error().code == multifd::ErrorCode::kPeerClosed);
  CHECK(on.engine.mode() == SendMode::kSplice);
}

}  // namespace

}  // namespace contract
