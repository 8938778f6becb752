// No allocation per packet: a program of its own, for it replaces operator new to count what the
// channel threads ask of it while pages flow. What libraries take with malloc() is not seen, as
// sanitizers have that for themselves; native/ takes its memory with operator new.
#include <sys/prctl.h>

#include <cstdlib>
#include <new>
#include <string_view>

#include "channel/ways.h"

namespace {

std::atomic<bool> counting{false};
std::atomic<uint64_t> sender_allocations{0};
std::atomic<uint64_t> receiver_allocations{0};

// A thread knows by its name what it is, without a list to be kept.
void count_allocation() {
  if (!counting.load(std::memory_order_relaxed)) return;
  std::array<char, 16> name{};
  ::prctl(PR_GET_NAME, name.data());
  const std::string_view shown(name.data());
  if (shown.starts_with("multifd-send")) ++sender_allocations;
  if (shown.starts_with("multifd-recv")) ++receiver_allocations;
}

void* allocate(size_t size, size_t alignment = alignof(std::max_align_t)) noexcept {
  count_allocation();
  return std::aligned_alloc(alignment, (size + alignment) / alignment * alignment);
}
void* allocate_or_abort(size_t size, size_t alignment = alignof(std::max_align_t)) {
  void* const memory = allocate(size, alignment);
  if (memory == nullptr) std::abort();
  return memory;
}

// Out of line: inlined into a container, a free() of what operator new gave looks like a mismatch
// to the compiler, which knows of one half only.
[[gnu::noinline]] void release(void* memory) noexcept { std::free(memory); }

}  // namespace

// Every form, for a sanitizer brings its own of those that are not replaced.
void* operator new(size_t size) { return allocate_or_abort(size); }
void* operator new[](size_t size) { return allocate_or_abort(size); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void* operator new(size_t size, std::align_val_t alignment) {
  return allocate_or_abort(size, static_cast<size_t>(alignment));
}
void* operator new[](size_t size, std::align_val_t alignment) {
  return allocate_or_abort(size, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { release(memory); }
void operator delete[](void* memory) noexcept { release(memory); }
void operator delete(void* memory, size_t) noexcept { release(memory); }
void operator delete[](void* memory, size_t) noexcept { release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { release(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { release(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { release(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { release(memory); }

namespace {

using namespace fixture;  // NOLINT

// What was allocated by channel threads while one of these lives.
class Count {
 public:
  Count() {
    sender_allocations = 0;
    receiver_allocations = 0;
    counting = true;
  }
  ~Count() { counting = false; }
  Count(const Count&) = delete;
  Count& operator=(const Count&) = delete;
  static uint64_t sender() { return sender_allocations; }
  static uint64_t receiver() { return receiver_allocations; }
};

enum class Pages { kNormal, kZero, kMixed };

// One channel between two guests' memories, and what is needed to send the same pages again.
class Channel {
 public:
  Channel(const Way& way, TrackerKind tracker) {
    Tracked tracked = make_tracker(tracker, source_);
    log_ = tracked.log;
    auto created = RamState::create(source_, std::move(tracked.tracker));
    CHECK_OK(created);
    ram_ = *created;
    auto group = std::make_shared<SendGroup>(ram_);
    group->io_uring = io_uring();
    if (way.registered) {
      auto registered = register_memory(*ram_);
      CHECK_OK(registered);
      group->registered = *registered;
    }
    auto sending = SendChannel::start({.endpoint = listener_.endpoint(),
                                       .initial = {},
                                       .engine = way.engine,
                                       .zero_copy = way.zero_copy,
                                       .high_water_bytes = 4 << 20,
                                       .low_water_bytes = 1 << 20,
                                       .counters = sent_.data()},
                                      std::move(group), send_wakeup_);
    CHECK_OK(sending);
    sending_ = std::move(*sending);
    InitialPacket initial;
    UniqueFd fd = listener_.accept_channel(initial);
    send_wakeup_.expect(*sending_, EventKind::kReady);
    auto received = ReceiveGroup::create(destination_);
    CHECK_OK(received);
    auto receiving =
        ReceiveChannel::start(std::move(fd), {.channel_id = 0, .counters = received_.data()},
                              *received, receive_wakeup_);
    CHECK_OK(receiving);
    receiving_ = std::move(*receiving);
    CHECK_OK(ram_->start());
  }
  // The guest writes all its memory; one round carries it, and the SYNC behind it.
  void send_round(Pages kind, uint64_t value) {
    uint8_t* const host = source_->blocks()[0].host();
    for (uint64_t page = 0; page < kPages; ++page) {
      const bool zero = kind == Pages::kZero || (kind == Pages::kMixed && page % 3 == 0);
      fill_page(host + page * kPageSize, zero ? 0 : value + page);
    }
    if (log_) log_->mark(0, {0, kPages});
    CHECK_OK(ram_->begin_round());
    const std::vector<Extent> extents = ram_->plan(256 * 1024);
    size_t in_work = 0;
    for (const Extent& extent : extents) {
      CHECK(sending_->submit_extent(extent));
      if (++in_work < 4) continue;
      send_wakeup_.expect(*sending_, EventKind::kExtentDone);
      --in_work;
    }
    CHECK(sending_->submit_sync());
    for (; in_work > 0; --in_work) send_wakeup_.expect(*sending_, EventKind::kExtentDone);
    send_wakeup_.expect(*sending_, EventKind::kSyncDone);
    receive_wakeup_.expect(*receiving_, EventKind::kSyncArrived);
    CHECK(same_bytes(host, destination_->blocks()[0].host(), kPages * kPageSize));
    receiving_->release_sync();
  }
  void send_all_kinds(uint64_t value) {
    for (const Pages kind : {Pages::kNormal, Pages::kZero, Pages::kMixed}) send_round(kind, value);
  }
  // False: nothing took it, as its memory was not given back yet.
  bool send_state(const std::shared_ptr<const std::vector<uint8_t>>& data) {
    SendPayload payload = DevicePacket::create("nvme0", 0, {}, *data, data);
    if (!sending_->submit(payload)) return false;
    receive_wakeup_.expect(*receiving_, EventKind::kDeviceState);
    ReceivedDeviceState state;
    CHECK(receiving_->take_device_state(state));
    send_wakeup_.expect(*sending_, EventKind::kDeviceStateDone);
    return true;
  }
  void close() {
    CHECK(sending_->submit_close());
    send_wakeup_.expect(*sending_, EventKind::kClosed);
    sending_->join();
    receive_wakeup_.expect(*receiving_, EventKind::kPeerEnd);
    receive_wakeup_.expect(*receiving_, EventKind::kClosed);
    receiving_->join();
  }
  [[nodiscard]] double packets() const { return cell(received_, ReceiveCounter::kPackets); }

 private:
  static constexpr uint64_t kPages = 4096;
  const PlainListener listener_;
  const std::shared_ptr<GuestMemory> source_ = make_memory(kPages * kPageSize);
  const std::shared_ptr<GuestMemory> destination_ = make_memory(kPages * kPageSize);
  std::shared_ptr<VmmDirtyLog> log_;
  std::shared_ptr<RamState> ram_;
  SendCells sent_{};
  ReceiveCells received_{};
  TestWakeup send_wakeup_;
  TestWakeup receive_wakeup_;
  std::unique_ptr<SendChannel> sending_;
  std::unique_ptr<ReceiveChannel> receiving_;
};

void expect_none_per_packet(const Way& way, TrackerKind tracker) {
  if (way.engine == EngineKind::kIoUring) {
    const auto& found = io_uring();
    for (const Ability* needed : {&found.io_uring, &found.usage_report, &found.fixed_sendmsg}) {
      if (!*needed) SKIP(std::string(needed->reason));
    }
  }
  Channel channel(way, tracker);
  channel.send_all_kinds(1000);  // buffers that grow with need have grown
  const double before = channel.packets();
  {
    const Count count;
    for (uint64_t again = 2; again < 4; ++again) channel.send_all_kinds(again * 1'000'000);
    CHECK(channel.packets() - before > 300.0);
    CHECK_EQ(Count::sender(), 0U);
    CHECK_EQ(Count::receiver(), 0U);
  }
  channel.close();
}

[[maybe_unused]] const bool added = [] {
  for (const Way& way : kWays) {
    check::add(std::string("no packet of pages allocates, sent or received: ") + way.name,
               [&way] { expect_none_per_packet(way, TrackerKind::kVmm); });
  }
  return true;
}();

TEST("no packet of pages allocates, sent or received: tracked by userfaultfd, and by hashes") {
  expect_none_per_packet(kWays[0], TrackerKind::kHash);
  expect_none_per_packet(kWays[0], TrackerKind::kUserfaultfd);
}

TEST("a device's state allocates where it arrives, not where it is sent from") {
  Channel channel(kWays[0], TrackerKind::kVmm);
  const auto data = std::make_shared<const std::vector<uint8_t>>(100'000, uint8_t{7});
  CHECK(channel.send_state(data));
  {
    const Count count;
    for (int i = 0; i < 20; ++i) CHECK(channel.send_state(data));
    CHECK_EQ(Count::sender(), 0U);
    CHECK(Count::receiver() > 0U);  // so the count does count
  }
  channel.close();
}

}  // namespace
