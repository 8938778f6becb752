#include "channel/send_group.h"

#include <vector>

namespace multifd {

Result<std::shared_ptr<const RegisteredMemory>> register_memory(RamState& ram) {
  std::vector<iovec> ranges;
  for (const RamBlock& block : ram.memory().blocks()) {
    ranges.push_back({block.host(), block.used_length});
  }
  ram.pin(true);
  auto registered = RegisteredMemory::create(ranges);
  if (!registered) ram.pin(false);
  return registered;
}

}  // namespace multifd
