// Tests of the receiving channel with bytes that no source would send. Whatever comes: an error or
// an orderly end, and not a byte of memory outside the block's own pages is written.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "channel_fixture.h"

namespace {

using namespace fixture;  // NOLINT

constexpr uint64_t kBlockPages = 8;
constexpr uint64_t kCanaryPages = 2;
constexpr uint8_t kCanary = 0xC5;

void put32(uint8_t* at, uint32_t value) {
  for (int i = 0; i < 4; ++i) at[i] = static_cast<uint8_t>(value >> (24 - 8 * i));
}
void put64(uint8_t* at, uint64_t value) {
  put32(at, static_cast<uint32_t>(value >> 32));
  put32(at + 4, static_cast<uint32_t>(value));
}

// [no access | canary | block | canary | no access], one mapping around a block of eight pages.
class GuardedMemory {
 public:
  GuardedMemory() {
    constexpr size_t kInner = (kBlockPages + 2 * kCanaryPages) * kPageSize;
    whole_size_ = kInner + 2 * kPageSize;
    whole_ = static_cast<uint8_t*>(mmap(nullptr, whole_size_, PROT_NONE,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    CHECK(whole_ != MAP_FAILED);
    inner_ = whole_ + kPageSize;
    CHECK_EQ(mprotect(inner_, kInner, PROT_READ | PROT_WRITE), 0);
    std::memset(inner_, kCanary, kInner);
    auto mapping = Mapping::external(inner_, kInner);
    CHECK_OK(mapping);
    auto memory = GuestMemory::create(
        {RamBlock{"pc.ram", *mapping, kCanaryPages, kBlockPages * kPageSize}});
    CHECK_OK(memory);
    memory_ = *memory;
    clear_block();
  }
  ~GuardedMemory() {
    memory_.reset();
    munmap(whole_, whole_size_);
  }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  [[nodiscard]] const std::shared_ptr<GuestMemory>& memory() const { return memory_; }
  [[nodiscard]] uint8_t* block() const { return inner_ + kCanaryPages * kPageSize; }
  void clear_block() const { std::memset(block(), 0, kBlockPages * kPageSize); }
  [[nodiscard]] bool canaries_intact() const {
    const auto intact = [](const uint8_t* at) {
      return std::all_of(at, at + kCanaryPages * kPageSize,
                         [](uint8_t byte) { return byte == kCanary; });
    };
    return intact(inner_) && intact(block() + kBlockPages * kPageSize);
  }
  [[nodiscard]] bool block_is_zero() const {
    return std::all_of(block(), block() + kBlockPages * kPageSize,
                       [](uint8_t byte) { return byte == 0; });
  }

 private:
  uint8_t* whole_ = nullptr;
  size_t whole_size_ = 0;
  uint8_t* inner_ = nullptr;
  std::shared_ptr<GuestMemory> memory_;
};

using Bytes = std::vector<uint8_t>;

void append_header(Bytes& stream, const RamPacket& packet, PacketSize size = PacketSize::kQemu) {
  stream.resize(stream.size() + ram_header_size(packet_pages(size)));
  fill_ram_header(std::span(stream).last(ram_header_size(packet_pages(size))), packet);
}

constexpr size_t kDeviceBytes = 40;

// Pages 1 and 3 with content, a device's state, page 3 then zero, a SYNC, and page 7 behind it.
Bytes example_stream(PacketSize size = PacketSize::kQemu) {
  Bytes stream;
  const uint64_t normal[] = {1 * kPageSize, 3 * kPageSize};
  append_header(stream, {.flags = 0, .packet_num = 0, .block = "pc.ram", .normal = normal,
                         .zero = {}}, size);
  stream.resize(stream.size() + 2 * kPageSize, 0x11);
  stream.resize(stream.size() + kDeviceHeaderSize);
  fill_device_header(std::span(stream).last<kDeviceHeaderSize>(), "vga", 0, kDeviceBytes);
  stream.resize(stream.size() + kDeviceBytes, 0x44);
  const uint64_t zero[] = {3 * kPageSize, 4 * kPageSize};
  append_header(stream, {.flags = 0, .packet_num = 1, .block = "pc.ram", .normal = {},
                         .zero = zero}, size);
  append_header(stream,
                {.flags = kFlagSync, .packet_num = 2, .block = {}, .normal = {}, .zero = {}}, size);
  const uint64_t last[] = {7 * kPageSize};
  append_header(stream, {.flags = 0, .packet_num = 3, .block = "pc.ram", .normal = last,
                         .zero = {}}, size);
  stream.resize(stream.size() + kPageSize, 0x22);
  return stream;
}

// What a channel made of the stream.
struct Outcome {
  bool peer_ended = false;
  std::optional<Error> error;
  uint32_t syncs = 0;
  std::vector<ReceivedDeviceState> states;
};

Outcome receive(const GuardedMemory& guarded, const Bytes& stream,
                const Syscalls& syscalls = kKernelSyscalls,
                PacketSize size = PacketSize::kQemu) {
  auto group = ReceiveGroup::create(guarded.memory());
  CHECK_OK(group);
  auto [ours, theirs] = unix_pair();
  // All of it fits, so that the test needs no thread of its own.
  const int room = 1 << 20;
  setsockopt(ours.get(), SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  CHECK_EQ(write(ours.get(), stream.data(), stream.size()), static_cast<ssize_t>(stream.size()));
  ours.reset();
  ReceiveCells cells{};
  TestWakeup wakeup;
  auto channel = ReceiveChannel::start(
      std::move(theirs),
      {.channel_id = 0, .packet_size = size, .counters = cells.data(), .syscalls = &syscalls},
      *group, wakeup);
  CHECK_OK(channel);
  Outcome outcome;
  for (Event event; (event = wakeup.next(**channel)).kind != EventKind::kClosed;) {
    outcome.peer_ended |= event.kind == EventKind::kPeerEnd;
    if (event.kind == EventKind::kFailed) outcome.error = (*channel)->error();
    if (event.kind == EventKind::kDeviceState) {
      CHECK((*channel)->take_device_state(outcome.states.emplace_back()));
    }
    if (event.kind != EventKind::kSyncArrived) continue;
    ++outcome.syncs;
    (*channel)->release_sync();
  }
  (*channel)->join();
  CHECK(guarded.canaries_intact());
  return outcome;
}

TEST("a good stream is applied, and ends in order") {
  const GuardedMemory guarded;
  const Outcome outcome = receive(guarded, example_stream());
  CHECK(outcome.peer_ended);
  CHECK(!outcome.error);
  CHECK_EQ(outcome.syncs, 1U);
  CHECK_EQ(outcome.states.size(), 1U);
  CHECK(outcome.states[0].header.idstr() == "vga");
  const uint8_t* const state = outcome.states[0].bytes.get();
  CHECK(std::all_of(state, state + kDeviceBytes, [](uint8_t byte) { return byte == 0x44; }));
  const auto page_is = [&](uint64_t page, uint8_t value) {
    const uint8_t* const at = guarded.block() + page * kPageSize;
    return std::all_of(at, at + kPageSize, [&](uint8_t byte) { return byte == value; });
  };
  CHECK(page_is(1, 0x11) && page_is(3, 0) && page_is(4, 0) && page_is(7, 0x22) && page_is(0, 0));
}

// As calls that signals interrupt: the first part comes short, and the second takes what is there.
check::Random* interruptions = nullptr;
int receive_interrupted(int fd, mmsghdr* parts, unsigned count) {
  std::array<iovec, kLargePacketPages + 1> iov{};
  msghdr cut{};
  cut.msg_iov = iov.data();
  size_t left = 1 + interruptions->below(1500);
  for (size_t i = 0; i < parts[0].msg_hdr.msg_iovlen && left > 0; ++i) {
    iov[i] = parts[0].msg_hdr.msg_iov[i];
    iov[i].iov_len = std::min(iov[i].iov_len, left);
    left -= iov[i].iov_len;
    ++cut.msg_iovlen;
  }
  const auto got = ::syscall(SYS_recvmsg, fd, &cut, 0);
  if (got < 0) return -1;
  parts[0].msg_len = static_cast<unsigned>(got);
  if (count == 1 || got == 0) return 1;
  const auto ahead = ::syscall(SYS_recvmsg, fd, &parts[1].msg_hdr, MSG_DONTWAIT);
  if (ahead < 0) return 1;
  parts[1].msg_len = static_cast<unsigned>(ahead);
  return 2;
}

TEST("what an interrupted call took for the next header goes where it belongs") {
  const GuardedMemory guarded;
  receive(guarded, example_stream());
  const Bytes expected(guarded.block(), guarded.block() + kBlockPages * kPageSize);
  check::Random random(check::seed());
  interruptions = &random;
  Syscalls syscalls = kKernelSyscalls;
  syscalls.receive_guest = receive_interrupted;
  for (int i = 0; i < 400; ++i) {
    guarded.clear_block();
    const PacketSize size = i % 2 == 0 ? PacketSize::kQemu : PacketSize::kLarge;
    const Outcome outcome = receive(guarded, example_stream(size), syscalls, size);
    CHECK(outcome.peer_ended);
    CHECK_EQ(outcome.states.size(), 1U);
    CHECK(std::equal(expected.begin(), expected.end(), guarded.block()));
  }
}

int receive_calls = 0;
int receive_counted(int fd, mmsghdr* parts, unsigned count) {
  ++receive_calls;
  return kKernelSyscalls.receive_guest(fd, parts, count);
}

TEST("every packet is counted when it has come: a slow source is not a silent one") {
  const GuardedMemory guarded;
  auto group = ReceiveGroup::create(guarded.memory());
  CHECK_OK(group);
  auto [ours, theirs] = unix_pair();
  ReceiveCells cells{};
  TestWakeup wakeup;
  auto channel = ReceiveChannel::start(
      std::move(theirs), {.packet_size = PacketSize::kLarge, .counters = cells.data()}, *group,
      wakeup);
  CHECK_OK(channel);
  const uint64_t normal[] = {3 * kPageSize};
  Bytes stream;
  append_header(stream, {.flags = 0, .packet_num = 0, .block = "pc.ram", .normal = normal,
                         .zero = {}}, PacketSize::kLarge);
  stream.resize(stream.size() + kPageSize, 0x11);
  stream.resize(stream.size() + kFrontSize);  // a packet is complete when the next one begins
  CHECK_EQ(write(ours.get(), stream.data(), stream.size()), static_cast<ssize_t>(stream.size()));
  for (int ms = 0; ms < 10'000 && cell(cells, ReceiveCounter::kPackets) < 1; ++ms) usleep(1000);
  CHECK_EQ(cell(cells, ReceiveCounter::kPackets), 1.0);
}

TEST("a packet of pages takes one system call, where it has come") {
  const GuardedMemory guarded;
  constexpr int kPackets = 20;
  Bytes stream;
  for (uint64_t i = 0; i < kPackets; ++i) {
    const uint64_t normal[] = {i % kBlockPages * kPageSize};
    append_header(stream, {.flags = 0, .packet_num = i, .block = "pc.ram", .normal = normal,
                           .zero = {}});
    stream.resize(stream.size() + kPageSize, 0x11);
  }
  Syscalls syscalls = kKernelSyscalls;
  syscalls.receive_guest = receive_counted;
  receive_calls = 0;
  CHECK(receive(guarded, stream, syscalls).peer_ended);
  CHECK_EQ(receive_calls, 1 + kPackets + 1);  // the first header and the end come alone
}

TEST("a wrong value in any field is an error, before a byte of the packet's payload is placed") {
  struct Case {
    const char* what;
    ErrorCode code;
    void (*change)(uint8_t* header);
  };
  const Case cases[] = {
      {"magic", ErrorCode::kProtocol, [](uint8_t* header) { put32(header, 0x51455649); }},
      {"version", ErrorCode::kProtocol, [](uint8_t* header) { put32(header + 4, 2); }},
      {"flags", ErrorCode::kUnsupported, [](uint8_t* header) { put32(header + 8, 0x80); }},
      {"pages_alloc", ErrorCode::kProtocol, [](uint8_t* header) { put32(header + 12, 129); }},
      {"normal", ErrorCode::kProtocol, [](uint8_t* header) { put32(header + 16, 129); }},
      {"next_packet_size", ErrorCode::kProtocol,
       [](uint8_t* header) { put32(header + 20, 1 << 30); }},
      {"zero", ErrorCode::kProtocol, [](uint8_t* header) { put32(header + 32, 0xFFFFFFFF); }},
      {"RAM block", ErrorCode::kProtocol, [](uint8_t* header) { header[64] = 'P'; }},
      {"RAM block", ErrorCode::kProtocol,
       [](uint8_t* header) { std::fill_n(header + 64, 256, uint8_t{0}); }},
      {"RAM block", ErrorCode::kProtocol,
       [](uint8_t* header) { std::fill_n(header + 64, 256, uint8_t{'x'}); }},
      {"offset", ErrorCode::kProtocol, [](uint8_t* header) { put64(header + 320, 1); }},
      {"offset", ErrorCode::kProtocol,
       [](uint8_t* header) { put64(header + 320, kBlockPages * kPageSize); }},
      {"offset", ErrorCode::kProtocol,
       [](uint8_t* header) { put64(header + 328, ~uint64_t{0} - kPageSize + 1); }},
      {"offset", ErrorCode::kProtocol, [](uint8_t* header) { put64(header + 328, 1ULL << 63); }},
  };
  for (const Case& wrong : cases) {
    const GuardedMemory guarded;
    Bytes stream = example_stream();
    wrong.change(stream.data());
    const Outcome outcome = receive(guarded, stream);
    CHECK(outcome.error.has_value());
    CHECK(outcome.error->code == wrong.code);
    if (std::strstr(outcome.error->detail, wrong.what) == nullptr) {
      check::fail(__FILE__, __LINE__, outcome.error->detail);
    }
    CHECK(!outcome.peer_ended);
    CHECK(guarded.block_is_zero());
  }
}

TEST("a zero page out of range is an error too") {
  const GuardedMemory guarded;
  Bytes stream;
  const uint64_t normal[] = {0};
  const uint64_t zero[] = {kBlockPages * kPageSize};
  append_header(stream, {.flags = 0, .packet_num = 0, .block = "pc.ram", .normal = normal,
                         .zero = zero});
  stream.resize(stream.size() + kPageSize, 0x11);
  CHECK(receive(guarded, stream).error.has_value());
  CHECK(guarded.block_is_zero());
}

TEST("a page named twice in a packet is written twice, and nothing else is") {
  const GuardedMemory guarded;
  Bytes stream;
  const std::vector<uint64_t> normal(kPacketPagesMax, 7 * kPageSize);
  append_header(stream, {.flags = 0, .packet_num = 0, .block = "pc.ram", .normal = normal,
                         .zero = {}});
  for (uint32_t i = 0; i < kPacketPagesMax; ++i) {
    stream.resize(stream.size() + kPageSize, static_cast<uint8_t>(i));
  }
  CHECK(receive(guarded, stream).peer_ended);
  CHECK_EQ(unsigned{guarded.block()[7 * kPageSize]}, 127U);
}

TEST("a SYNC packet that carries pages places them before it parks") {
  const GuardedMemory guarded;
  Bytes stream;
  const uint64_t normal[] = {2 * kPageSize};
  append_header(stream, {.flags = kFlagSync, .packet_num = 0, .block = "pc.ram",
                         .normal = normal, .zero = {}});
  stream.resize(stream.size() + kPageSize, 0x33);
  const Outcome outcome = receive(guarded, stream);
  CHECK(outcome.peer_ended);
  CHECK_EQ(outcome.syncs, 1U);
  CHECK_EQ(unsigned{guarded.block()[2 * kPageSize + 17]}, 0x33U);
}

TEST("a stream cut at any byte is an orderly end between packets and an error inside one") {
  const GuardedMemory guarded;
  const CensusCheck before;
  const Bytes whole = example_stream();
  const size_t first_end = kRamHeaderSize + 2 * kPageSize;
  const size_t device_end = first_end + kDeviceHeaderSize + kDeviceBytes;
  const std::array<size_t, 6> ends = {0, first_end, device_end, device_end + kRamHeaderSize,
                                      device_end + 2 * kRamHeaderSize, whole.size()};
  // Inside a payload every 61st byte is enough: there are no fields.
  for (size_t size = 0; size <= whole.size(); size += size < kRamHeaderSize + 64 ? 1 : 61) {
    const bool between = std::ranges::find(ends, size) != ends.end();
    const Bytes cut(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size));
    const Outcome outcome = receive(guarded, cut);
    CHECK_EQ(outcome.peer_ended, between);
    CHECK_EQ(outcome.error.has_value(), !between);
    if (outcome.error) CHECK(outcome.error->code == ErrorCode::kPeerClosed);
  }
  for (const size_t size : ends) {
    const Bytes cut(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size));
    CHECK(receive(guarded, cut).peer_ended);
  }
  before.expect_unchanged();
}

TEST("random changes of a good stream never write outside the block") {
  check::Random random(check::seed());
  const GuardedMemory guarded;
  for (int i = 0; i < 2000; ++i) {
    const PacketSize size = i % 2 == 0 ? PacketSize::kQemu : PacketSize::kLarge;
    Bytes stream = example_stream(size);
    for (uint64_t change = 1 + random.below(3); change > 0; --change) {
      // Mostly in headers: the first packet's, or the two behind its payload.
      const size_t behind = ram_header_size(packet_pages(size)) + 2 * kPageSize;
      const size_t at = random.below(2) == 0 ? random.below(360) : behind + random.below(1800);
      stream[at] = static_cast<uint8_t>(random.next());
    }
    const Outcome outcome = receive(guarded, stream, kKernelSyscalls, size);  // checks canaries
    CHECK(outcome.error.has_value() != outcome.peer_ended);
  }
}

TEST("a parked channel is destroyed at once") {
  const CensusCheck before;
  {
    const GuardedMemory guarded;
    auto group = ReceiveGroup::create(guarded.memory());
    CHECK_OK(group);
    auto [ours, theirs] = unix_pair();
    Bytes stream;
    append_header(stream,
                  {.flags = kFlagSync, .packet_num = 0, .block = {}, .normal = {}, .zero = {}});
    CHECK_EQ(write(ours.get(), stream.data(), stream.size()), static_cast<ssize_t>(stream.size()));
    ReceiveCells cells{};
    TestWakeup wakeup;
    auto channel = ReceiveChannel::start(
        std::move(theirs), {.channel_id = 0, .counters = cells.data()}, *group, wakeup);
    CHECK_OK(channel);
    wakeup.expect(**channel, EventKind::kSyncArrived);
    (*channel)->destroy();
    (*channel)->destroy();
    wakeup.expect(**channel, EventKind::kClosed);
    CHECK(!(*channel)->error());
  }
  before.expect_unchanged();
}

}  // namespace
