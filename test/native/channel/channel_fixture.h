// What the channel room's tests share: a thread that plays JavaScript's part (waits for events), a
// guest's memory, connected sockets, and the census before and after.
#pragma once

#include <sys/socket.h>

#include <array>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/census.h"
#include "channel/channel_thread.h"
#include "channel/endpoint.h"
#include "channel/receive_channel.h"
#include "channel/send_channel.h"
#include "check.h"
#include "guest/dirty_tracker.h"
#include "guest/guest_memory.h"
#include "guest/page_ops.h"
#include "guest/ram_state.h"

namespace fixture {

using namespace multifd;  // NOLINT: a fixture of this namespace's own tests

// Wakes the test instead of an event loop.
class TestWakeup final : public Wakeup {
 public:
  // The channel's next event; whatever it takes to arrive.
  Event next(ChannelThread& channel) {
    for (;;) {
      uint64_t before = 0;
      {
        const std::lock_guard lock(mutex_);
        before = wakes_;
      }
      disarm();
      Event event;
      if (channel.next_event(event)) return event;
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return wakes_ != before; });
    }
  }
  void expect(ChannelThread& channel, EventKind kind) {
    const Event event = next(channel);
    if (event.kind == EventKind::kFailed && kind != EventKind::kFailed) {
      check::fail(__FILE__, __LINE__, std::string("the channel failed: ") +
                                          channel.error()->detail);
    }
    CHECK_EQ(static_cast<uint32_t>(event.kind), static_cast<uint32_t>(kind));
  }

 private:
  void wake() override {
    {
      const std::lock_guard lock(mutex_);
      ++wakes_;
    }
    changed_.notify_one();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t wakes_ = 0;
};

// Everything the room holds of the kernel, by name.
class CensusCheck {
 public:
  CensusCheck() : before_(take()) {}
  void expect_unchanged() const {
    const auto now = take();
    for (size_t i = 0; i < now.size(); ++i) {
      if (now[i] == before_[i]) continue;
      check::fail(__FILE__, __LINE__,
                  std::string(kResourceNames[i]) + " are " + std::to_string(now[i]) + ", were " +
                      std::to_string(before_[i]));
    }
  }

 private:
  using Counts = std::array<int64_t, static_cast<size_t>(Resource::kCount)>;
  static Counts take() {
    Counts counts{};
    for (size_t i = 0; i < counts.size(); ++i) counts[i] = census(static_cast<Resource>(i)).load();
    return counts;
  }
  const Counts before_;
};

inline std::shared_ptr<GuestMemory> make_memory(size_t size_bytes, bool memfd = false) {
  auto mapping = memfd ? Mapping::open_memfd("multifd-test", size_bytes)
                       : Mapping::allocate(size_bytes, false);
  CHECK_OK(mapping);
  auto memory = GuestMemory::create({RamBlock{"pc.ram", *mapping, 0, size_bytes}});
  CHECK_OK(memory);
  return *memory;
}

enum class TrackerKind { kUserfaultfd, kVmm, kHash };

struct Tracked {
  std::unique_ptr<DirtyTracker> tracker;
  std::shared_ptr<VmmDirtyLog> log;  // null: the tracker sees writes by itself
};

// Skips the test where the kernel has no such tracker.
inline Tracked make_tracker(TrackerKind kind, const std::shared_ptr<GuestMemory>& memory) {
  if (kind == TrackerKind::kVmm) {
    auto made = make_vmm_tracker(memory);
    CHECK_OK(made);
    return {std::move(made->tracker), made->log};
  }
  auto made = kind == TrackerKind::kHash ? make_hash_tracker(memory) : make_uffd_tracker(memory);
  if (!made && made.error().code == ErrorCode::kUnsupported) SKIP(made.error().detail);
  CHECK_OK(made);
  return {std::move(*made), nullptr};
}

// Both ends are ours here, but their threads are not: what the test writes and reads of guest
// memory races with them by design.
__attribute__((no_sanitize("thread"))) inline void fill_page(uint8_t* page, uint64_t value) {
  auto* const words = reinterpret_cast<volatile uint64_t*>(page);
  for (size_t i = 0; i < kPageSize / sizeof value; ++i) words[i] = value == 0 ? 0 : value + i;
}
__attribute__((no_sanitize("thread"))) inline bool page_holds(const uint8_t* page, uint64_t value) {
  const auto* const words = reinterpret_cast<const volatile uint64_t*>(page);
  for (size_t i = 0; i < kPageSize / sizeof value; ++i) {
    if (words[i] != (value == 0 ? 0 : value + i)) return false;
  }
  return true;
}
__attribute__((no_sanitize("thread"))) inline bool same_bytes(const uint8_t* a, const uint8_t* b,
                                                              size_t size) {
  const auto* const left = reinterpret_cast<const volatile uint64_t*>(a);
  const auto* const right = reinterpret_cast<const volatile uint64_t*>(b);
  for (size_t i = 0; i < size / sizeof(uint64_t); ++i) {
    if (left[i] != right[i]) return false;
  }
  return true;
}

inline std::pair<UniqueFd, UniqueFd> unix_pair() {
  std::array<int, 2> fds{};
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()), 0);
  return {UniqueFd(fds[0], Resource::kSocket), UniqueFd(fds[1], Resource::kSocket)};
}

// A listening socket without a Listener, for tests that play the destination themselves.
class PlainListener {
 public:
  PlainListener() {
    auto any = Endpoint::tcp("127.0.0.1", 0);
    CHECK_OK(any);
    uint16_t port = 0;
    auto listening = listen_on(*any, port);
    CHECK_OK(listening);
    fd_ = std::move(*listening);
    auto bound = Endpoint::tcp("127.0.0.1", port);
    CHECK_OK(bound);
    endpoint_ = *bound;
  }
  [[nodiscard]] const Endpoint& endpoint() const { return endpoint_; }
  // Blocks until somebody connects, and reads the initial packet.
  UniqueFd accept_channel(InitialPacket& initial) const {
    pollfd poll{fd_.get(), POLLIN, 0};
    CHECK_EQ(::poll(&poll, 1, -1), 1);
    UniqueFd fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC), Resource::kSocket);
    CHECK(static_cast<bool>(fd));
    std::array<uint8_t, kInitialPacketSize> bytes;
    CHECK_EQ(::recv(fd.get(), bytes.data(), bytes.size(), MSG_WAITALL),
             static_cast<ssize_t>(bytes.size()));
    auto parsed = parse_initial_packet(bytes);
    CHECK_OK(parsed);
    initial = *parsed;
    return fd;
  }

 private:
  UniqueFd fd_;
  Endpoint endpoint_;
};

using SendCells = std::array<CounterCell, static_cast<size_t>(SendCounter::kCount)>;
using ReceiveCells = std::array<CounterCell, static_cast<size_t>(ReceiveCounter::kCount)>;
template <typename Cells, typename Counter>
double cell(const Cells& cells, Counter counter) {
  return cells[static_cast<size_t>(counter)].load();
}

}  // namespace fixture
