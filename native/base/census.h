// Counts what the addon holds of the kernel: fds, threads, mappings, by name. The counts exist so
// that tests (and `multifd doctor`) can prove that nothing outlives its owner. They steer nothing,
// which is why they may be process-wide while all other state is per environment.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace multifd {

enum class Resource : uint8_t {
  kSocket,
  kEventFd,
  kUserfaultFd,
  kPagemapFd,
  kBackingFd,  // memfd or mapped file
  kThread,
  kMapping,
  kLeakedRecord,  // a zero-copy record the kernel never released (DESIGN 4.5)
  kRing,          // io_uring instances
  kPipe,          // ends of pipes
  kCount,
};

inline constexpr std::array<const char*, static_cast<size_t>(Resource::kCount)> kResourceNames = {
    "sockets", "eventFds", "userfaultFds", "pagemapFds", "backingFds", "threads", "mappings",
    "leakedRecords", "rings", "pipes"};

inline std::atomic<int64_t>& census(Resource resource) {
  static std::array<std::atomic<int64_t>, static_cast<size_t>(Resource::kCount)> counts{};
  return counts[static_cast<size_t>(resource)];
}

// Held as a member by whatever owns the resource; counts it for exactly as long.
class CensusEntry {
 public:
  explicit CensusEntry(Resource resource) : resource_(resource) {
    census(resource_).fetch_add(1, std::memory_order_relaxed);
  }
  ~CensusEntry() { census(resource_).fetch_sub(1, std::memory_order_relaxed); }
  CensusEntry(const CensusEntry&) = delete;
  CensusEntry& operator=(const CensusEntry&) = delete;

 private:
  const Resource resource_;
};

}  // namespace multifd
