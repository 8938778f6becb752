// Turns the state of a device into its packet. Knows the engine as a contract, and nothing of
// threads, events, other payloads or what a device is.
#pragma once

#include <cstdint>
#include <functional>

#include "engine/engine.h"
#include "payload/send_payload.h"

namespace multifd {

struct DeviceCounters {
  uint64_t packets = 0;
  uint64_t bytes = 0;  // on the wire, headers included
};

class DeviceStateSender {
 public:
  // Called after each submission, about once per MiB, as ExtentSender's.
  using Progress = std::function<void(const DeviceCounters&)>;
  DeviceStateSender(Engine& engine, Progress progress)
      : engine_(engine), progress_(std::move(progress)) {}

  // Sends the packet. When it returns the kernel has copied the data.
  Result<void> send(const DevicePacket& packet);

 private:
  Engine& engine_;
  const Progress progress_;
  DeviceCounters counters_;
};

}  // namespace multifd
