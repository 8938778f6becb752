#include "channel/device_state_sender.h"

#include <algorithm>

namespace multifd {
namespace {

// Of one submission: counters must move while a slow peer takes its time over 16 MiB.
constexpr size_t kPartBytes = 1 << 20;

void add(SendRecord& record, std::span<const uint8_t> bytes) {
  // iovec has no const: the kernel only reads.
  if (!bytes.empty()) record.add(const_cast<uint8_t*>(bytes.data()), bytes.size());
}

}  // namespace

Result<void> DeviceStateSender::send(const DevicePacket& packet) {
  std::span<const uint8_t> front = packet.front();
  std::span<const uint8_t> data = packet.data;
  while (!front.empty() || !data.empty()) {
    auto acquired = engine_.acquire();
    if (!acquired) return acquired.error();
    SendRecord& record = **acquired;
    // Never zero-copy: a notification may take as long as the peer likes, and until then its memory
    // could not be given back to a device, of which each byte travels only once. It is the
    // JavaScript heap's, too: unlike guest memory nobody could keep it from going away.
    record.plain = true;
    const auto part = data.first(std::min(data.size(), kPartBytes));
    add(record, front);
    add(record, part);
    const size_t bytes = record.bytes;
    front = {};
    data = data.subspan(part.size());
    if (auto submitted = engine_.submit(record); !submitted) return submitted;
    counters_.bytes += bytes;
    if (data.empty()) ++counters_.packets;
    progress_(counters_);
  }
  return {};
}

}  // namespace multifd
