// The engines where the system gives little: a child process as an ordinary user with a small
// locked-memory limit, and one to which a seccomp filter refuses io_uring. Sending completes, and
// the counters and reasons tell what happened.
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <string_view>

#include "base/locked_memory.h"
#include "engine/sendmsg_engine.h"
#include "engine/uring_engine.h"
#include "check.h"
#include "tcp_pair.h"

namespace contract {

namespace {

using multifd::Engine;
using multifd::RegisteredMemory;
using multifd::SendMode;
using multifd::UringEngine;

constexpr size_t kKiB = 1024;
constexpr int kSkipped = 77;

// Runs the body in a child; a failed check there prints itself and fails here.
void in_child(const std::function<void()>& body) {
  std::fflush(stdout);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    int code = 0;
    try {
      body();
    } catch (const check::Failed&) {
      code = 1;
    } catch (const check::Skipped& skipped) {
      std::printf("     %s\n", skipped.reason.c_str());
      code = kSkipped;
    }
    std::fflush(stdout);
    _exit(code);
  }
  int status = 0;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFEXITED(status));
  if (WEXITSTATUS(status) == kSkipped) SKIP("see above");
  CHECK_EQ(WEXITSTATUS(status), 0);
}

void become_ordinary_user(size_t locked_bytes) {
  const rlimit limit{locked_bytes, locked_bytes};
  CHECK_EQ(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
  if (geteuid() != 0) return;
  CHECK_EQ(setgroups(0, nullptr), 0);
  CHECK_EQ(setgid(65534), 0);
  CHECK_EQ(setuid(65534), 0);
}

struct Channel {
  Pair pair = tcp_pair(true);
  multifd::WaterMarks marks{64 << 20, 1 << 20};
  std::atomic<bool> stop{false};
  std::vector<uint8_t> payload = std::vector<uint8_t>(1 << 20);
};

// 32 records of 1 MiB.
void exchange(Channel& channel, Engine& engine) {
  check::Random random(check::seed());
  for (uint8_t& byte : channel.payload) byte = static_cast<uint8_t>(random.next());
  Reader reader(channel.pair.receiver.get());
  constexpr size_t kRecords = 32;
  for (size_t i = 0; i < kRecords; ++i) {
    auto acquired = engine.acquire();
    CHECK_OK(acquired);
    (*acquired)->headers.fill(static_cast<uint8_t>(i));
    (*acquired)->add((*acquired)->headers.data(), multifd::kRecordHeadersSize);
    (*acquired)->add(channel.payload.data(), channel.payload.size());
    CHECK_OK(engine.submit(**acquired));
  }
  CHECK_OK(engine.flush(0));
  shutdown(channel.pair.sender.get(), SHUT_WR);
  const std::vector<uint8_t> arrived = reader.join();
  const size_t record_bytes = multifd::kRecordHeadersSize + channel.payload.size();
  CHECK_EQ(arrived.size(), kRecords * record_bytes);
  for (size_t i = 0; i < kRecords; ++i) {
    const auto* const at = arrived.data() + i * record_bytes;
    CHECK_EQ(at[0], static_cast<uint8_t>(i));
    CHECK(std::equal(channel.payload.begin(), channel.payload.end(),
                     at + multifd::kRecordHeadersSize));
  }
}

std::unique_ptr<UringEngine> uring_engine(const Channel& channel, SendMode mode,
                                          std::shared_ptr<const RegisteredMemory> memory = {}) {
  auto engine = UringEngine::create({.fd = channel.pair.sender.get(),
                                     .mode = mode,
                                     .memory = std::move(memory),
                                     .water_marks = &channel.marks,
                                     .stop = &channel.stop},
                                    multifd::probe_io_uring());
  if (!engine) SKIP(std::string(engine.error().detail));
  return std::move(*engine);
}

void check_counters(const Engine& engine, bool refused) {
  const auto& counters = engine.counters();
  CHECK_EQ(counters.refused_by_optmem, 0U);
  CHECK_EQ(counters.refused_by_memlock > 0, refused);
  CHECK(counters.zero_copy_bytes + counters.copied_bytes <= counters.sent_bytes);
}

// The kernel's own word for the capability that lifts the limit.
bool may_lock_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with("CapEff:")) continue;
    return ((std::stoull(line.substr(7), nullptr, 16) >> 14) & 1) != 0;  // CAP_IPC_LOCK
  }
  return false;
}

TEST("RLIMIT_MEMLOCK binds an ordinary user, not one that may lock what it likes") {
  in_child([] {
    become_ordinary_user(1024 * kKiB);
    CHECK(multifd::is_locked_memory_limited());
  });
  in_child([] {
    // Lowering it needs no privilege.
    rlimit limit{};
    CHECK_EQ(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
    limit.rlim_cur = 4096;
    CHECK_EQ(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    CHECK_EQ(multifd::is_locked_memory_limited(), !may_lock_memory());
  });
}

TEST("sendmsg completes within a locked-memory limit of 8 MiB, and of 256 KiB") {
  for (const size_t limit : {8192 * kKiB, 256 * kKiB}) {
    in_child([limit] {
      become_ordinary_user(limit);
      Channel channel;
      multifd::SendmsgEngine engine({.fd = channel.pair.sender.get(),
                                     .zero_copy = true,
                                     .water_marks = &channel.marks,
                                     .stop = &channel.stop});
      exchange(channel, engine);
      // A record is 1 MiB. What fits into the larger limit depends on how fast it is released.
      if (limit < 1024 * kKiB) check_counters(engine, true);
    });
  }
}

// A network namespace of its own, whose loopback is up.
void enter_namespace() {
  if (unshare(CLONE_NEWNET) != 0) SKIP("making a network namespace needs root");
  const int control = socket(AF_INET, SOCK_DGRAM, 0);
  ifreq loopback{};
  std::strcpy(loopback.ifr_name, "lo");
  loopback.ifr_flags = IFF_UP | IFF_RUNNING;
  CHECK_EQ(ioctl(control, SIOCSIFFLAGS, &loopback), 0);
  close(control);
}

TEST("sendmsg completes with too little option memory for one notification, or for several") {
  for (const char* const bytes : {"0", "1024", "4096"}) {
    in_child([bytes] {
      enter_namespace();
      std::ofstream("/proc/sys/net/core/optmem_max") << bytes;
      become_ordinary_user(8192 * kKiB);
      Channel channel;
      multifd::SendmsgEngine engine({.fd = channel.pair.sender.get(),
                                     .zero_copy = true,
                                     .water_marks = &channel.marks,
                                     .stop = &channel.stop});
      exchange(channel, engine);
      CHECK(engine.counters().refused_by_optmem > 0 || std::string_view(bytes) == "4096");
      CHECK_EQ(engine.counters().refused_by_memlock, 0U);
    });
  }
}

TEST("io_uring completes within a locked-memory limit of 8 MiB, and of 256 KiB") {
  for (const size_t limit : {8192 * kKiB, 256 * kKiB}) {
    in_child([limit] {
      become_ordinary_user(limit);
      Channel channel;
      const auto engine = uring_engine(channel, SendMode::kZeroCopy);
      if (engine->mode() != SendMode::kZeroCopy) {
        SKIP(std::string(engine->downgrades().last().sentence));
      }
      exchange(channel, *engine);
      if (limit < 1024 * kKiB) check_counters(*engine, true);
      CHECK(engine->mode() == SendMode::kZeroCopy);
    });
  }
}

TEST("memory above the locked-memory limit is not registered; zero-copy goes on without") {
  in_child([] {
    become_ordinary_user(2048 * kKiB);
    if (const auto abilities = multifd::probe_io_uring(); !abilities.fixed_send) {
      SKIP(std::string(abilities.fixed_send.reason));
    }
    std::vector<uint8_t> large(4 << 20);
    const iovec range{large.data(), large.size()};
    const auto refused = RegisteredMemory::create({&range, 1});
    CHECK(!refused);
    CHECK_EQ(refused.error().errno_value, ENOMEM);
    Channel channel;
    const iovec small{channel.payload.data(), channel.payload.size()};
    const auto memory = RegisteredMemory::create({&small, 1});
    CHECK_OK(memory);
    const auto engine = uring_engine(channel, SendMode::kZeroCopyFixed, *memory);
    CHECK(engine->mode() == SendMode::kZeroCopyFixed);
    exchange(channel, *engine);
    check_counters(*engine, false);  // what is registered is counted once, not per send
  });
}

// What containers do: io_uring's three system calls answer EPERM.
void refuse_io_uring() {
  const auto load = static_cast<uint32_t>(offsetof(seccomp_data, nr));
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, load),
      BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, SYS_io_uring_setup, 0, 2),
      BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, SYS_io_uring_register, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{sizeof filter / sizeof filter[0], filter};
  CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    SKIP("this machine allows no seccomp filter");
  }
}

TEST("io_uring refused by a seccomp filter is a reason, and sendmsg does the work") {
  in_child([] {
    refuse_io_uring();
    const auto abilities = multifd::probe_io_uring();
    CHECK(!abilities.io_uring);
    CHECK(!abilities.send_zero_copy && !abilities.fixed_send && !abilities.clone_buffers);
    const std::string reason = abilities.io_uring.reason;
    CHECK(reason.find("seccomp") != std::string::npos ||
          reason.find("io_uring_disabled") != std::string::npos);
    Channel channel;
    const auto engine = UringEngine::create({.fd = channel.pair.sender.get(),
                                             .mode = SendMode::kZeroCopy,
                                             .memory = {},
                                             .water_marks = &channel.marks,
                                             .stop = &channel.stop},
                                            abilities);
    CHECK(!engine);
    CHECK(engine.error().code == multifd::ErrorCode::kUnsupported);
    CHECK(reason == engine.error().detail);
    const iovec range{channel.payload.data(), channel.payload.size()};
    const auto memory = RegisteredMemory::create({&range, 1});
    CHECK(!memory);
    CHECK_EQ(memory.error().errno_value, EPERM);
    multifd::SendmsgEngine plainer({.fd = channel.pair.sender.get(),
                                    .zero_copy = true,
                                    .water_marks = &channel.marks,
                                    .stop = &channel.stop});
    exchange(channel, plainer);
  });
}

}  // namespace

}  // namespace contract
