// Starts a program under limits that are really there: restricted OPTIONS -- PROGRAM ARGUMENTS.
// They bind this process and what it becomes, never the machine. Test-only; knows nothing of
// multifd. Exits with 77 and a sentence on stderr where the machine does not let it.
//
//   --memlock BYTES        RLIMIT_MEMLOCK, soft and hard
//   --user UID             an ordinary user: no capability is left but the one to read files,
//                          so that the checkout may lie where only root looks
//   --hold BYTES           so much of that user's locked memory is taken already: registered with
//                          an io_uring that lives as long as the program
//   --pipes                that user's pipes hold as many pages as they may
//   --deny CALLS ERRNO     a seccomp filter answers EPERM or ENOSYS to io_uring, userfaultfd,
//                          vmsplice or splice
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr int kUsage = 2;
constexpr int kCannot = 77;

[[noreturn]] void cannot(const std::string& what) {
  std::fprintf(stderr, "%s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(kCannot);
}

[[noreturn]] void wrong_usage(const std::string& what) {
  std::fprintf(stderr, "restricted: %s\n", what.c_str());
  std::exit(kUsage);
}

unsigned long long number(const std::string& text) {
  char* end = nullptr;
  const unsigned long long value = std::strtoull(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0') wrong_usage("\"" + text + "\" is not a number");
  return value;
}

void limit_locked_memory(unsigned long long bytes) {
  const rlimit limit{bytes, bytes};
  if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0) cannot("lowering RLIMIT_MEMLOCK failed");
}

// Reading any file is kept as an ambient capability, which the next execve() does not take away;
// it lifts no limit. Where even root lacks it, files must be readable to all.
void keep_reading() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  constexpr uint32_t kBit = 1u << CAP_DAC_READ_SEARCH;
  data[0] = {kBit, kBit, kBit};
  if (syscall(SYS_capset, &header, data) != 0) {
    data[0] = {};
    if (syscall(SYS_capset, &header, data) != 0) cannot("dropping the capabilities failed");
    return;
  }
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0) != 0) {
    cannot("keeping the capability to read files failed");
  }
}

void become(unsigned long long user) {
  if (geteuid() != 0) {
    errno = EPERM;
    cannot("only root can become an ordinary user");
  }
  const auto id = static_cast<uid_t>(user);
  // Becoming a user drops no capability by itself then, and access(2) does not set them aside.
  if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) != 0 ||
      setgroups(0, nullptr) != 0 || setresgid(id, id, id) != 0 || setresuid(id, id, id) != 0) {
    cannot("becoming user " + std::to_string(user) + " failed");
  }
  keep_reading();
}

// The pages stay pinned, and charged to the user, when execve() has taken the mapping away.
void hold_locked_memory(unsigned long long bytes) {
  if (bytes == 0) return;
  io_uring_params params{};
  const long ring = syscall(SYS_io_uring_setup, 1, &params);
  if (ring < 0) cannot("io_uring, which is to hold locked memory, is not to be had");
  void* const memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) cannot("mmap failed");
  // A huge page would be charged as a whole.
  madvise(memory, bytes, MADV_NOHUGEPAGE);
  const iovec range{memory, bytes};
  if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &range, 1) != 0) {
    cannot("locking " + std::to_string(bytes) + " bytes failed");
  }
  if (fcntl(static_cast<int>(ring), F_SETFD, 0) != 0) cannot("fcntl failed");
}

// fs.pipe-user-pages-soft, for as long as the program lives: what is made later has two pages.
void fill_pipes() {
  constexpr int kLargest = 1 << 20;  // fs.pipe-max-size by default
  int ends[2];
  do {
    if (pipe(ends) != 0) cannot("pipes came to no limit of pages");
  } while (fcntl(ends[1], F_SETPIPE_SZ, kLargest) >= 0);
}

struct Denial {
  long first_call;
  long last_call;
  int error;
};

Denial denial(const std::string& calls, const std::string& name) {
  if (name != "EPERM" && name != "ENOSYS") wrong_usage("no error " + name);
  const int error = name == "EPERM" ? EPERM : ENOSYS;
  if (calls == "userfaultfd") return {SYS_userfaultfd, SYS_userfaultfd, error};
  if (calls == "vmsplice") return {SYS_vmsplice, SYS_vmsplice, error};
  if (calls == "splice") return {SYS_splice, SYS_splice, error};
  // setup, enter and register have consecutive numbers on every architecture.
  if (calls == "io_uring") return {SYS_io_uring_setup, SYS_io_uring_register, error};
  wrong_usage("no calls named " + calls);
}

void deny(const std::vector<Denial>& denials) {
  if (denials.empty()) return;
  std::vector<sock_filter> filter;
  filter.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
  for (const Denial& denied : denials) {
    const auto first = static_cast<uint32_t>(denied.first_call);
    const auto last = static_cast<uint32_t>(denied.last_call);
    const auto error = static_cast<uint32_t>(denied.error);
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, first, 0, 2));
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, last, 1, 0));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error));
  }
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    cannot("this machine takes no seccomp filter");
  }
}

}  // namespace

int main(int argc, char** argv) {
  unsigned long long held_bytes = 0;
  std::vector<Denial> denials;
  int at = 1;
  const auto next = [&]() -> std::string {
    if (++at >= argc) wrong_usage("an option lacks its value");
    return argv[at];
  };
  for (; at < argc && std::strcmp(argv[at], "--") != 0; ++at) {
    const std::string option = argv[at];
    if (option == "--memlock") {
      limit_locked_memory(number(next()));
    } else if (option == "--user") {
      become(number(next()));
    } else if (option == "--hold") {
      held_bytes = number(next());
    } else if (option == "--pipes") {
      fill_pipes();
    } else if (option == "--deny") {
      const std::string calls = next();
      denials.push_back(denial(calls, next()));
    } else {
      wrong_usage("no option " + option);
    }
  }
  if (at + 1 >= argc) wrong_usage("no program after --");
  hold_locked_memory(held_bytes);  // as the user it is to be charged to, before io_uring may go
  deny(denials);
  execvp(argv[at + 1], argv + at + 1);
  std::fprintf(stderr, "starting %s failed: %s\n", argv[at + 1], std::strerror(errno));
  return kUsage;
}
