// What a channel needs of the kernel: send records in order, and say when their memory is free
// again. Two words kept apart: *sent* (the kernel accepted the bytes) and *released* (it no longer
// reads the memory). An engine knows iovecs, never pages, packets or rounds. Channel thread only.
#pragma once

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "engine/send_mode.h"

namespace multifd {

// What is sent beside guest memory, headers of packets, lives in the record until it is released:
// room for one large packet's, or for those of two of QEMU's size.
inline constexpr size_t kRecordHeadersSize = 4096;
// One iovec for a header and at worst one for each of 472 pages; below IOV_MAX (1024).
inline constexpr uint32_t kRecordIovMax = 1 + 472;

// Records of a channel with zero-copy; one suffices without. The high-water mark is the bound that
// policy sets; this one only has to be large enough not to be felt before it: 64 MiB and more.
inline constexpr uint32_t kZeroCopyRecords = 64;
// Below this a copy is cheaper than pinning and a notification (msg_zerocopy.rst: about 10 KB).
inline constexpr size_t kZeroCopyMinBytes = 16 * 1024;

// One submission: everything the kernel may read until it is released.
struct SendRecord {
  uint32_t index = 0;  // in the pool
  uint32_t iov_count = 0;
  size_t bytes = 0;              // over all iovecs
  uint32_t unreleased_calls = 0;  // kernel calls that still read this record's memory
  bool submitting = false;        // more calls may follow
  bool more = false;   // a hint: little, and another record soon (MSG_MORE)
  bool plain = false;  // copied, whatever the engine's mode; what is not guest memory
  std::array<iovec, kRecordIovMax> iov;
  std::array<uint8_t, kRecordHeadersSize> headers;
  // Bodies that are not guest memory; made by the first who needs them, as long as the record.
  std::unique_ptr<uint8_t[]> own_bodies;

  void add(void* base, size_t size) {
    iov[iov_count++] = {base, size};
    bytes += size;
  }
};

// Counters an engine keeps; the channel publishes them.
struct EngineCounters {
  uint64_t sent_bytes = 0;
  uint64_t send_calls = 0;
  uint64_t zero_copy_tried_bytes = 0;  // of records that went zero-copy, also if refused later
  uint64_t zero_copy_bytes = 0;  // released, and the kernel did not copy
  uint64_t copied_bytes = 0;     // released, asked for zero-copy, copied after all
  uint64_t notifications = 0;
  uint64_t stray_notifications = 0;  // ids that were not outstanding
  uint64_t waits_at_high_water = 0;
  uint64_t dry_waits = 0;     // of these: the connection ran dry meanwhile (pipe_watch.h)
  uint64_t queued_waits = 0;  // and of these: the network or the receiver was full
  uint64_t refused_by_memlock = 0;
  uint64_t refused_by_optmem = 0;
  uint64_t unreleased_high_bytes = 0;
  uint64_t unreleased_recent_high_bytes = 0;  // since begin_extent()
};

// Bounds on unreleased bytes; written by the flush policy, read per submission. No more than
// `high_bytes` is ever unreleased. They also switch zero-copy: with `high_bytes` below
// kZeroCopyMinBytes, or once zero_copy_tried_bytes reached `zero_copy_until_bytes`, records go
// plain.
struct WaterMarks {
  std::atomic<uint64_t> high_bytes;
  std::atomic<uint64_t> low_bytes;
  std::atomic<uint64_t> zero_copy_until_bytes{UINT64_MAX};
};

class Engine {
 public:
  virtual ~Engine() = default;
  // A free record. When none is free, waits for a release: the empty pool is the backpressure.
  virtual Result<SendRecord*> acquire() = 0;
  // Sends all bytes of the record in order; returns when the kernel accepted them. The engine owns
  // the record from here until it is released, also after a failure.
  virtual Result<void> submit(SendRecord& record) = 0;
  // unreleased_recent_high_bytes begins anew.
  virtual void begin_extent() = 0;
  // Waits until at most `target_bytes` are unreleased; 0 is a full flush.
  virtual Result<void> flush(size_t target_bytes) = 0;
  [[nodiscard]] virtual size_t unreleased_bytes() const = 0;
  [[nodiscard]] virtual const EngineCounters& counters() const = 0;
  // The mode in use, and why it is not the one asked for. It only ever steps down.
  [[nodiscard]] virtual SendMode mode() const = 0;
  [[nodiscard]] virtual const Downgrades& downgrades() const = 0;
  // Resets the connection, so that the kernel lets go of pending sends, and reaps them. Returns
  // false if some were not released in time: their memory must then never be used again.
  virtual bool reset() = 0;
};

}  // namespace multifd
