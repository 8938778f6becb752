// A source loop in miniature, for the tracker suite: a guest that never stops writing, rounds,
// two channel threads, and a shadow destination that the guest memory is compared with in the end.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "guest/ram_state.h"
#include "guest_fixture.h"

namespace fixture {

using multifd::DirtyTracker;
using multifd::Extent;
using multifd::RamState;
using multifd::VmmDirtyLog;

enum class TrackerKind { kUserfaultfd, kVmm, kHash };
inline constexpr TrackerKind kTrackers[] = {TrackerKind::kUserfaultfd, TrackerKind::kVmm,
                                            TrackerKind::kHash};

inline std::string name_of(TrackerKind kind) {
  switch (kind) {
    case TrackerKind::kUserfaultfd: return "userfaultfd";
    case TrackerKind::kVmm: return "vmm";
    case TrackerKind::kHash: return "hash";
  }
  return "";
}

struct Tracked {
  std::unique_ptr<DirtyTracker> tracker;
  std::shared_ptr<VmmDirtyLog> log;  // null: the tracker sees writes by itself
};

// Skips the test where the kernel has no such tracker.
inline Tracked make_tracker(TrackerKind kind, const std::shared_ptr<GuestMemory>& memory) {
  if (kind == TrackerKind::kVmm) {
    auto made = multifd::make_vmm_tracker(memory);
    CHECK_OK(made);
    return {std::move(made->tracker), made->log};
  }
  auto made = kind == TrackerKind::kHash ? multifd::make_hash_tracker(memory)
                                         : multifd::make_uffd_tracker(memory);
  if (!made && made.error().code == multifd::ErrorCode::kUnsupported) SKIP(made.error().detail);
  CHECK_OK(made);
  return {std::move(*made), nullptr};
}

// What the destination holds: absent pages are zero there.
class Shadow {
 public:
  explicit Shadow(const GuestMemory& memory) {
    for (const RamBlock& block : memory.blocks()) pages_.emplace_back(block.used_length);
  }
  uint8_t* page(uint32_t block, uint64_t page) { return pages_[block].data() + page * kPageSize; }
  // Pages that differ from the guest's. Only after the guest stopped.
  [[nodiscard]] uint64_t differences(const GuestMemory& memory) const;

 private:
  std::vector<std::vector<uint8_t>> pages_;
};

// The source's side of a migration, driven step by step by a test.
class Source {
 public:
  Source(std::shared_ptr<GuestMemory> memory, std::unique_ptr<DirtyTracker> tracker,
         uint64_t extent_dirty_bytes);
  RamState& state() { return *state_; }
  Shadow& shadow() { return shadow_; }
  // Begins a round and sends all of it over two channel threads. Returns its pages.
  uint64_t round();
  // What a round sends, for a round that was begun by somebody else.
  void send_round();
  [[nodiscard]] uint64_t sent_absent() const { return sent_absent_; }

 private:
  void send_extent(const Extent& extent);
  void send_page(uint32_t block, uint64_t page, bool populated);
  std::shared_ptr<GuestMemory> memory_;
  std::shared_ptr<RamState> state_;
  Shadow shadow_;
  const uint64_t extent_dirty_bytes_;
  std::atomic<uint64_t> sent_absent_{0};  // absent pages that travelled as zero pages
};

// A guest with one processor. All that happens to its memory happens on its thread: writes of
// words and whole pages, values that come back (A -> B -> A), and discards by way of `discard`.
class Writer {
 public:
  using Discard = std::function<void(uint32_t block, PageRange range)>;
  Writer(std::shared_ptr<GuestMemory> memory, std::shared_ptr<VmmDirtyLog> log, uint64_t seed,
         Discard discard);
  ~Writer();
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  void start();
  void stop();
  // Waits until the guest did `count` more things; it never stops by itself.
  void wait_for(uint64_t count) const;
  // One random thing, on the caller's thread (before start()).
  void step();

 private:
  void wrote(uint32_t block, uint64_t page);
  const std::shared_ptr<GuestMemory> memory_;
  const std::shared_ptr<VmmDirtyLog> log_;
  const Discard discard_;
  check::Random random_;
  std::atomic<uint64_t> steps_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace fixture
