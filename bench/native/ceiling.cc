// The measure of what this machine can do: plain C++ threads with plain send() and recv() over TCP
// on loopback, one thread per channel and side, over the same kind of memory as a migration. It
// shares no code with native/ on purpose, and must never know how the library works. bench/ builds
// and starts it, one process per side; it speaks JSON lines on stdout and waits for "go" on stdin.
//
//   ceiling receive --memory BYTES --channels N --send-size BYTES --huge-pages 0|1
//                   --socket-buffer BYTES       of SO_SNDBUF and SO_RCVBUF; 0: the kernel tunes
//                   --congestion-control NAME   of TCP; "system": its default
//   ceiling send    the same, and --port PORT
//   ceiling memcpy  --memory BYTES --huge-pages 0|1
//   ceiling read    the same
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t{2} << 20;

struct Options {
  uint64_t memory_bytes = 0;
  unsigned channels = 1;
  size_t send_bytes = 0;
  uint16_t port = 0;
  bool huge_pages = false;
  int socket_buffer_bytes = 0;
  std::string_view congestion_control = "system";
};

// What a channel says first, with its number in front. As long as the initial packet of multifd:
// an odd length would shift all that follows off the cache lines, and slow every copy down.
constexpr size_t kHelloSize = 64;

struct Share {
  uint8_t* at;
  size_t bytes;
};

[[noreturn]] __attribute__((format(printf, 1, 2))) void die(const char* format, ...) {
  va_list list;
  va_start(list, format);
  std::vfprintf(stderr, format, list);
  va_end(list);
  std::fputc('\n', stderr);
  std::exit(1);
}

[[noreturn]] void die_of(const char* syscall) { die("%s failed: %s", syscall, strerror(errno)); }

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 2; i < argc; i += 2) {
    const std::string_view name = argv[i];
    if (i + 1 == argc) die("option %s has no value", argv[i]);
    if (name == "--congestion-control") {
      options.congestion_control = argv[i + 1];
      continue;
    }
    const unsigned long long value = std::strtoull(argv[i + 1], nullptr, 10);
    if (name == "--memory") options.memory_bytes = value;
    else if (name == "--channels") options.channels = static_cast<unsigned>(value);
    else if (name == "--send-size") options.send_bytes = value;
    else if (name == "--port") options.port = static_cast<uint16_t>(value);
    else if (name == "--socket-buffer") options.socket_buffer_bytes = static_cast<int>(value);
    else if (name == "--huge-pages") options.huge_pages = value != 0;
    else die("unknown option %s", argv[i]);
  }
  if (options.memory_bytes == 0 || options.memory_bytes % kPage != 0) {
    die("--memory is %llu, expected a multiple of %zu",
        static_cast<unsigned long long>(options.memory_bytes), kPage);
  }
  return options;
}

uint8_t* map(const Options& options) {
  const size_t bytes = options.memory_bytes;
  void* const base = ::mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) die_of("mmap");
  const auto address = reinterpret_cast<uintptr_t>(base);
  auto* const memory = reinterpret_cast<uint8_t*>((address + kHugePage - 1) & ~(kHugePage - 1));
  if (::madvise(memory, bytes, options.huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) < 0) {
    die_of("madvise");
  }
  return memory;
}

// Incompressible, and different on every page: a 64-bit xorshift.
void fill(uint8_t* memory, size_t bytes) {
  uint64_t state = 0x9e3779b97f4a7c15u ^ static_cast<uint64_t>(::getpid());
  for (size_t at = 0; at < bytes; at += sizeof state) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    std::memcpy(memory + at, &state, sizeof state);
  }
}

// What the kernel really backs with huge pages: asking for them promises nothing.
unsigned long long huge_page_bytes() {
  std::FILE* const file = std::fopen("/proc/self/smaps_rollup", "r");
  if (file == nullptr) return 0;
  char line[256];
  unsigned long long kibibytes = 0;
  while (std::fgets(line, sizeof line, file) != nullptr) {
    if (std::sscanf(line, "AnonHugePages: %llu kB", &kibibytes) == 1) break;
  }
  std::fclose(file);
  return kibibytes * 1024;
}

double seconds_of(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
}

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Share share_of(const Options& options, uint8_t* memory, unsigned channel) {
  const uint64_t pages = options.memory_bytes / kPage;
  const uint64_t from = pages * channel / options.channels;
  const uint64_t to = pages * (channel + 1) / options.channels;
  return {memory + from * kPage, (to - from) * kPage};
}

void send_share(int fd, Share share, size_t send_bytes) {
  while (share.bytes > 0) {
    const ssize_t sent = ::send(fd, share.at, std::min(send_bytes, share.bytes), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) die_of("send");
    share.at += sent;
    share.bytes -= static_cast<size_t>(sent);
  }
}

void receive_share(int fd, Share share, size_t receive_bytes) {
  while (share.bytes > 0) {
    const ssize_t got = ::recv(fd, share.at, std::min(receive_bytes, share.bytes), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) die_of("recv");
    if (got == 0) die("the sender closed a channel %zu bytes early", share.bytes);
    share.at += got;
    share.bytes -= static_cast<size_t>(got);
  }
}

void tune(int fd, const Options& options) {
  const std::string_view name = options.congestion_control;
  if (name != "system" && ::setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name.data(),
                                       static_cast<socklen_t>(name.size())) < 0) {
    die_of("setsockopt");
  }
  const int bytes = options.socket_buffer_bytes;
  if (bytes == 0) return;
  ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
}

sockaddr_in loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

void wait_for_go() {
  char line[16];
  if (std::fgets(line, sizeof line, stdin) == nullptr) std::exit(1);  // the parent is gone
}

void report(const Options& options, double seconds, double cpu) {
  std::printf("{\"event\":\"done\",\"seconds\":%.9f,\"cpuSeconds\":%.6f,\"bytes\":%llu}\n", seconds,
              cpu, static_cast<unsigned long long>(options.memory_bytes));
  std::fflush(stdout);
}

void receive(const Options& options) {
  uint8_t* const memory = map(options);
  std::memset(memory, 0, options.memory_bytes);
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = loopback(0);
  socklen_t length = sizeof address;
  if (::bind(listener, reinterpret_cast<sockaddr*>(&address), length) < 0) die_of("bind");
  if (::listen(listener, 255) < 0) die_of("listen");
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length);
  std::printf("{\"event\":\"ready\",\"port\":%u,\"hugePageBytes\":%llu}\n",
              unsigned{ntohs(address.sin_port)}, huge_page_bytes());
  std::fflush(stdout);

  const double cpu_before = cpu_seconds();
  double started = 0;
  std::vector<int> fds;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < options.channels; ++i) {
    const int fd = ::accept(listener, nullptr, nullptr);
    if (fd < 0) die_of("accept");
    if (i == 0) started = now_seconds();
    tune(fd, options);
    fds.push_back(fd);
    threads.emplace_back([&options, memory, fd] {
      uint8_t hello[kHelloSize];
      if (::recv(fd, hello, kHelloSize, MSG_WAITALL) != kHelloSize) die_of("recv");
      const uint8_t channel = hello[0];  // whose share this is
      if (channel >= options.channels) die("a channel calls itself %u", unsigned{channel});
      receive_share(fd, share_of(options, memory, channel), options.send_bytes);
    });
  }
  for (std::thread& thread : threads) thread.join();
  const char answer = 1;
  for (const int fd : fds) {
    if (::send(fd, &answer, 1, MSG_NOSIGNAL) != 1) die_of("send");
  }
  report(options, now_seconds() - started, cpu_seconds() - cpu_before);
}

int connect_to(const Options& options) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  tune(fd, options);
  const sockaddr_in address = loopback(options.port);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
    die_of("connect");
  }
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

void send_all(const Options& options) {
  uint8_t* const memory = map(options);
  fill(memory, options.memory_bytes);
  std::printf("{\"event\":\"ready\",\"hugePageBytes\":%llu}\n", huge_page_bytes());
  std::fflush(stdout);
  wait_for_go();

  const double cpu_before = cpu_seconds();
  const double started = now_seconds();
  std::vector<std::thread> threads;
  for (unsigned channel = 0; channel < options.channels; ++channel) {
    threads.emplace_back([&options, memory, channel] {
      const int fd = connect_to(options);
      const uint8_t hello[kHelloSize] = {static_cast<uint8_t>(channel)};
      if (::send(fd, hello, kHelloSize, MSG_NOSIGNAL) != kHelloSize) die_of("send");
      send_share(fd, share_of(options, memory, channel), options.send_bytes);
      char answer = 0;
      if (::recv(fd, &answer, 1, 0) != 1) die("the receiver closed a channel without an answer");
    });
  }
  for (std::thread& thread : threads) thread.join();
  report(options, now_seconds() - started, cpu_seconds() - cpu_before);
}

// One thread, memory to memory: the price of one copy, for scale.
void copy(const Options& options) {
  uint8_t* const from = map(options);
  uint8_t* const to = map(options);
  fill(from, options.memory_bytes);
  std::memset(to, 0, options.memory_bytes);
  const double cpu_before = cpu_seconds();
  const double started = now_seconds();
  std::memcpy(to, from, options.memory_bytes);
  const double seconds = now_seconds() - started;
  const double cpu = cpu_seconds() - cpu_before;
  if (std::memcmp(to, from, options.memory_bytes) != 0) die("memcpy did not copy");
  report(options, seconds, cpu);
}

// As wide as the processor reads, and four at a time, so that none waits for the one before.
typedef uint64_t Wide __attribute__((vector_size(64)));
#if defined(__x86_64__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
uint64_t
read_words(const uint8_t* memory, size_t bytes) {
  Wide sums[4] = {};
  const auto* const words = reinterpret_cast<const Wide*>(memory);
  for (size_t at = 0; at < bytes / sizeof(Wide); at += std::size(sums)) {
    for (size_t i = 0; i < std::size(sums); ++i) sums[i] |= words[at + i];
  }
  const Wide all = sums[0] | sums[1] | sums[2] | sums[3];
  uint64_t found = 0;
  for (size_t i = 0; i < sizeof all / sizeof found; ++i) found |= all[i];
  return found;
}

// One thread that looks at every byte: what memory gives one core.
void read_all(const Options& options) {
  uint8_t* const memory = map(options);
  std::memset(memory, 0, options.memory_bytes);
  const double cpu_before = cpu_seconds();
  const double started = now_seconds();
  const uint64_t found = read_words(memory, options.memory_bytes);
  const double seconds = now_seconds() - started;
  const double cpu = cpu_seconds() - cpu_before;
  if (found != 0) die("memory that was zeroed is not zero");
  report(options, seconds, cpu);
}

}  // namespace

int main(int argc, char** argv) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (argc < 2) die("usage: ceiling receive|send|memcpy|read --memory BYTES ...");
  const std::string_view mode = argv[1];
  const Options options = parse(argc, argv);
  if (mode == "memcpy") {
    copy(options);
    return 0;
  }
  if (mode == "read") {
    read_all(options);
    return 0;
  }
  if (options.channels == 0 || options.channels > 255) die("--channels: expected 1..255");
  if (options.send_bytes == 0) die("--send-size: expected at least 1 byte");
  if (mode == "send") send_all(options);
  else if (mode == "receive") receive(options);
  else die("unknown mode %s: expected receive, send, memcpy or read", argv[1]);
  return 0;
}
