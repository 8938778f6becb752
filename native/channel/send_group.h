// What the sending channels of one migration share: the book of its RAM, the packet counter, and
// what was found out for all of them about io_uring.
#pragma once

#include <atomic>
#include <memory>
#include <optional>

#include "engine/probe.h"
#include "engine/registered_memory.h"
#include "guest/ram_state.h"

namespace multifd {

struct SendGroup {
  explicit SendGroup(std::shared_ptr<RamState> state) : ram(std::move(state)) {}
  const std::shared_ptr<RamState> ram;
  std::atomic<uint64_t> packet_num{0};  // one counter for all channels, as in QEMU
  // Set before the first channel starts, then immutable until the last one has ended.
  std::optional<IoUringAbilities> io_uring;  // empty: a channel that wants it probes for itself
  std::shared_ptr<const RegisteredMemory> registered;  // null: sends name addresses
};

// All guest memory as fixed buffers, before it is armed for tracking: registering marks every page
// dirty and makes it resident. From here on the VMM may discard nothing (RamState::pin). Fails with
// kUnsupported where huge pages hold guest memory: the kernel (io_sg_from_iter, io_uring/net.c)
// charges a part of one to the socket with its offset in the huge page, up to 2 MiB for a few
// pages. Socket memory is then full with 128 KiB under way (measured: 256 MiB took 34 s on lo).
Result<std::shared_ptr<const RegisteredMemory>> register_memory(RamState& ram);

}  // namespace multifd
