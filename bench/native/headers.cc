// What a header before each zero-copied body costs, by the way it is sent: one TCP connection, one
// thread per side. It shares no code with native/ on purpose, and must never know how the library
// works. bench/ builds and starts it, one process per side; it speaks JSON lines on stdout and
// waits for "go" on stdin. A packet is a header and a body; bodies are a memory's slices in order.
//
//   headers receive --header BYTES --body BYTES --memory BYTES --way none|plain|more|one-call|flush
//                   --address IPV4 --seed N    of all contents
//                   --socket-buffer BYTES      of SO_SNDBUF and SO_RCVBUF; 0: the kernel tunes
//                   --verify 0|1    1: compare every header and body with what was to be sent
//   headers send    the same, and --port PORT
//                   --reap each|end    read the error queue after each packet, or only at the end
#include <arpa/inet.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <iterator>
#include <string_view>
#include <vector>

namespace {

constexpr size_t kPage = 4096;
// Far above what a socket holds: its buffer is to be the bound on what is unreleased.
constexpr size_t kUnreleasedMax = size_t{64} << 20;

enum class Way {
  kNone,     // bodies alone
  kPlain,    // the header by a plain send of its own
  kMore,     // the same with MSG_MORE
  kOneCall,  // header and body by one zero-copy call; the header's slot lives until its release
  kFlush,    // as kPlain, and every body is released before the next header
};

// In the order of Way.
constexpr std::string_view kWays[] = {"none", "plain", "more", "one-call", "flush"};

struct Options {
  size_t header_bytes = 0;
  size_t body_bytes = 0;
  size_t memory_bytes = 0;
  Way way = Way::kNone;
  sockaddr_in address{};
  bool verify = false;
  bool reap_each = true;
  uint64_t seed = 1;
  int socket_buffer_bytes = 0;

  [[nodiscard]] size_t packets() const { return memory_bytes / body_bytes; }
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

Way way_of(std::string_view name) {
  const auto* const found = std::find(std::begin(kWays), std::end(kWays), name);
  if (found == std::end(kWays)) die("unknown way %s", name.data());
  return static_cast<Way>(found - kWays);
}

Options parse(int argc, char** argv) {
  Options options;
  options.address.sin_family = AF_INET;
  for (int i = 2; i < argc; i += 2) {
    const std::string_view name = argv[i];
    if (i + 1 == argc) die("option %s has no value", argv[i]);
    const unsigned long long value = std::strtoull(argv[i + 1], nullptr, 10);
    if (name == "--header") options.header_bytes = value;
    else if (name == "--body") options.body_bytes = value;
    else if (name == "--memory") options.memory_bytes = value;
    else if (name == "--way") options.way = way_of(argv[i + 1]);
    else if (name == "--port") options.address.sin_port = htons(static_cast<uint16_t>(value));
    else if (name == "--verify") options.verify = value != 0;
    else if (name == "--reap") options.reap_each = std::string_view(argv[i + 1]) == "each";
    else if (name == "--seed") options.seed = value;
    else if (name == "--socket-buffer") options.socket_buffer_bytes = static_cast<int>(value);
    else if (name == "--address") options.address.sin_addr.s_addr = ::inet_addr(argv[i + 1]);
    else die("unknown option %s", argv[i]);
  }
  if (options.way == Way::kNone) options.header_bytes = 0;
  const size_t memory = options.memory_bytes, body = options.body_bytes;
  if (memory == 0 || body == 0 || memory % body != 0 || body % kPage != 0 ||
      options.header_bytes % 8 != 0) {
    die("expected --memory to be a multiple of --body, that one of %zu, and --header of 8", kPage);
  }
  return options;
}

uint8_t* map(size_t bytes) {
  void* const memory = ::mmap(nullptr, std::max(bytes, kPage), PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) die_of("mmap");
  return static_cast<uint8_t*>(memory);
}

// What stands at a place of the stream: incompressible, different in every word, and a function of
// the place alone, so that a receiver can tell whether bytes are whole and in order (splitmix64).
uint64_t word_of(uint64_t place) {
  uint64_t word = place * 0x9e3779b97f4a7c15u;
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
  word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
  return word ^ (word >> 31);
}

// Places of a packet, in words; headers are far behind all bodies.
uint64_t body_place(const Options& options, size_t packet) {
  return (options.seed << 40) + packet * options.body_bytes / 8;
}
uint64_t header_place(const Options& options, size_t packet) {
  return (options.seed << 40) + (uint64_t{1} << 39) + packet * options.header_bytes / 8;
}

void fill(uint8_t* at, size_t bytes, uint64_t place) {
  for (size_t i = 0; i < bytes; i += 8) {
    const uint64_t word = word_of(place++);
    std::memcpy(at + i, &word, sizeof word);
  }
}

void compare(const uint8_t* at, size_t bytes, uint64_t place, const char* what, size_t number) {
  for (size_t i = 0; i < bytes; i += 8) {
    const uint64_t expected = word_of(place++);
    if (std::memcmp(at + i, &expected, sizeof expected) == 0) continue;
    die("%s %zu is not what was sent: it differs from byte %zu on", what, number, i);
  }
}

double seconds(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Zero-copy calls from `first` to before `end`, by the kernel's ids: plain ones take none.
struct Calls {
  size_t first = 0;
  size_t end = 0;
};

// The sending side of the connection: sends, and what the kernel says of them afterwards.
class Sender {
 public:
  explicit Sender(int fd) : fd_(fd) {}

  Calls send(iovec* iov, size_t count, int flags) {
    const size_t first = calls_.size();
    msghdr message{};
    message.msg_iov = iov;
    message.msg_iovlen = count;
    while (message.msg_iovlen > 0) {
      const ssize_t sent = ::sendmsg(fd_, &message, flags | MSG_NOSIGNAL);
      ++send_calls;
      if (sent < 0 && errno == EINTR) continue;
      if (sent < 0 && errno == ENOBUFS) {
        ++refusals;
        if (unreleased_bytes == 0) die("a zero-copy send is larger than RLIMIT_MEMLOCK allows");
        wait_for_notification();
        continue;
      }
      if (sent < 0) die_of("sendmsg");
      const auto bytes = static_cast<size_t>(sent);
      advance(message, bytes);
      if ((flags & MSG_ZEROCOPY) == 0) continue;
      calls_.push_back({bytes});
      unreleased_bytes += bytes;
      unreleased_high_bytes = std::max(unreleased_high_bytes, unreleased_bytes);
    }
    return {first, calls_.size()};
  }

  // Reads what the error queue holds, without waiting.
  bool reap() {
    for (bool any = false;; any = true) {
      alignas(cmsghdr) char control[128];
      msghdr message{};
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      ++other_calls;
      if (::recvmsg(fd_, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) return any;
      for (cmsghdr* at = CMSG_FIRSTHDR(&message); at != nullptr; at = CMSG_NXTHDR(&message, at)) {
        if (at->cmsg_level != SOL_IP || at->cmsg_type != IP_RECVERR) continue;
        sock_extended_err error{};
        std::memcpy(&error, CMSG_DATA(at), sizeof error);
        if (error.ee_origin == SO_EE_ORIGIN_ZEROCOPY) release(error);
      }
    }
  }

  void wait_until(size_t bytes) {
    while (unreleased_bytes > bytes) wait_for_notification();
  }

  [[nodiscard]] bool released(Calls calls) const {
    while (calls.first < calls.end && calls_[calls.first].released) ++calls.first;
    return calls.first == calls.end;
  }
  [[nodiscard]] size_t zero_copy_calls() const { return calls_.size(); }

  size_t send_calls = 0;
  size_t other_calls = 0;  // recvmsg of the error queue, and poll
  size_t notifications = 0;
  size_t widest_range = 0;  // sends that one notification released
  size_t refusals = 0;      // ENOBUFS
  size_t unreleased_bytes = 0;
  size_t unreleased_high_bytes = 0;
  size_t zero_copy_bytes = 0;
  size_t copied_bytes = 0;

 private:
  struct Call {
    size_t bytes;
    bool released = false;
  };

  static void advance(msghdr& message, size_t bytes) {
    for (; message.msg_iovlen > 0 && bytes >= message.msg_iov->iov_len; --message.msg_iovlen) {
      bytes -= message.msg_iov->iov_len;
      ++message.msg_iov;
    }
    if (message.msg_iovlen == 0) return;
    message.msg_iov->iov_base = static_cast<uint8_t*>(message.msg_iov->iov_base) + bytes;
    message.msg_iov->iov_len -= bytes;
  }

  void release(const sock_extended_err& error) {
    ++notifications;
    widest_range = std::max(widest_range, size_t{error.ee_data - error.ee_info} + 1);
    if (error.ee_data >= calls_.size()) die("the kernel released send %u, not sent", error.ee_data);
    for (size_t call = error.ee_info; call <= error.ee_data; ++call) {
      if (calls_[call].released) die("the kernel released send %zu twice", call);
      calls_[call].released = true;
      unreleased_bytes -= calls_[call].bytes;
      const bool copied = (error.ee_code & SO_EE_CODE_ZEROCOPY_COPIED) != 0;
      (copied ? copied_bytes : zero_copy_bytes) += calls_[call].bytes;
    }
  }

  void wait_for_notification() {
    if (reap()) return;
    pollfd poll{fd_, 0, 0};  // POLLERR is always reported, and stands for the error queue
    ++other_calls;
    if (::poll(&poll, 1, -1) < 0 && errno != EINTR) die_of("poll");
    if (!reap()) die("the connection broke while sends were unreleased");
  }

  const int fd_;
  std::vector<Call> calls_;  // by id
};

void send_packets(const Options& options, uint8_t* memory, Sender& sender) {
  // A zero-copied header stays as it is until its calls are released: as many slots as bodies can
  // be unreleased. A copied one is the kernel's own as soon as it is sent.
  const bool one_call = options.way == Way::kOneCall;
  size_t bound = options.reap_each ? kUnreleasedMax : SIZE_MAX;
  if (options.way == Way::kFlush) bound = 0;
  const size_t slot_count =
      one_call ? std::min(options.packets(), bound / options.body_bytes + 2) : 1;
  uint8_t* const slots = map(slot_count * options.header_bytes);
  std::vector<Calls> calls(slot_count);
  for (size_t packet = 0; packet < options.packets(); ++packet) {
    const size_t slot = packet % slot_count;
    uint8_t* const header = slots + slot * options.header_bytes;
    while (!sender.released(calls[slot])) sender.wait_until(sender.unreleased_bytes - 1);
    fill(header, options.header_bytes, header_place(options, packet));
    uint8_t* const body = memory + packet * options.body_bytes;
    iovec iov[] = {{header, options.header_bytes}, {body, options.body_bytes}};
    if (one_call) {
      calls[slot] = sender.send(iov, 2, MSG_ZEROCOPY);
    } else {
      const int flags = options.way == Way::kMore ? MSG_MORE : 0;
      if (options.header_bytes > 0) sender.send(iov, 1, flags);
      sender.send(iov + 1, 1, MSG_ZEROCOPY);
    }
    if (options.reap_each) sender.reap();
    sender.wait_until(bound);
  }
}

int make_socket(const Options& options) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  const int bytes = options.socket_buffer_bytes;
  if (bytes == 0) return fd;
  ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  return fd;
}

int connect_to(const Options& options) {
  const int fd = make_socket(options);
  const int on = 1;
  if (::setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on) < 0) die_of("SO_ZEROCOPY");
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  const auto* const address = reinterpret_cast<const sockaddr*>(&options.address);
  if (::connect(fd, address, sizeof options.address) < 0) die_of("connect");
  return fd;
}

void send_all(const Options& options) {
  uint8_t* const memory = map(options.memory_bytes);
  fill(memory, options.memory_bytes, body_place(options, 0));
  std::puts("{\"event\":\"ready\"}");
  std::fflush(stdout);
  char line[16];
  if (std::fgets(line, sizeof line, stdin) == nullptr) std::exit(1);  // the parent is gone

  const double cpu_before = seconds(CLOCK_PROCESS_CPUTIME_ID);
  const double started = seconds(CLOCK_MONOTONIC);
  const int fd = connect_to(options);
  Sender sender(fd);
  send_packets(options, memory, sender);
  char answer = 0;
  if (::recv(fd, &answer, 1, 0) != 1) die("the receiver closed the connection without an answer");
  sender.wait_until(0);  // as at the end of a scan; its answer has acknowledged everything
  const double elapsed = seconds(CLOCK_MONOTONIC) - started;
  std::printf("{\"event\":\"done\",\"seconds\":%.9f,\"cpuSeconds\":%.6f,\"packets\":%zu,"
              "\"sendCalls\":%zu,\"otherCalls\":%zu,\"zeroCopyCalls\":%zu,\"notifications\":%zu,"
              "\"widestRange\":%zu,\"refusals\":%zu,\"zeroCopyBytes\":%zu,\"copiedBytes\":%zu,"
              "\"unreleasedHighBytes\":%zu}\n",
              elapsed, seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu_before, options.packets(),
              sender.send_calls, sender.other_calls, sender.zero_copy_calls(),
              sender.notifications, sender.widest_range, sender.refusals, sender.zero_copy_bytes,
              sender.copied_bytes, sender.unreleased_high_bytes);
  std::fflush(stdout);
}

void receive_all(int fd, uint8_t* at, size_t bytes) {
  while (bytes > 0) {
    const ssize_t got = ::recv(fd, at, bytes, MSG_WAITALL);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) die_of("recv");
    if (got == 0) die("the sender closed the connection %zu bytes early", bytes);
    at += got;
    bytes -= static_cast<size_t>(got);
  }
}

void receive(Options options) {
  uint8_t* const bodies = map(options.memory_bytes);
  uint8_t* const headers = map(options.packets() * options.header_bytes);
  const int listener = make_socket(options);  // accepted sockets inherit the buffers
  socklen_t length = sizeof options.address;
  auto* const address = reinterpret_cast<sockaddr*>(&options.address);
  if (::bind(listener, address, length) < 0) die_of("bind");
  if (::listen(listener, 1) < 0) die_of("listen");
  ::getsockname(listener, address, &length);
  std::printf("{\"event\":\"ready\",\"port\":%u}\n", unsigned{ntohs(options.address.sin_port)});
  std::fflush(stdout);

  const double cpu_before = seconds(CLOCK_PROCESS_CPUTIME_ID);
  const int fd = ::accept(listener, nullptr, nullptr);
  if (fd < 0) die_of("accept");
  for (size_t packet = 0; packet < options.packets(); ++packet) {
    receive_all(fd, headers + packet * options.header_bytes, options.header_bytes);
    receive_all(fd, bodies + packet * options.body_bytes, options.body_bytes);
  }
  if (::send(fd, "", 1, MSG_NOSIGNAL) != 1) die_of("send");  // the answer, one byte
  const double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu_before;
  for (size_t packet = 0; options.verify && packet < options.packets(); ++packet) {
    compare(headers + packet * options.header_bytes, options.header_bytes,
            header_place(options, packet), "header", packet);
    compare(bodies + packet * options.body_bytes, options.body_bytes,
            body_place(options, packet), "body", packet);
  }
  std::printf("{\"event\":\"done\",\"cpuSeconds\":%.6f,\"verified\":%s}\n", cpu,
              options.verify ? "true" : "false");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (argc < 2) die("usage: headers receive|send --memory BYTES ...");
  const std::string_view mode = argv[1];
  const Options options = parse(argc, argv);
  if (mode != "receive" && mode != "send") die("unknown mode %s", argv[1]);
  mode == "send" ? send_all(options) : receive(options);
}
