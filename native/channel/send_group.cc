#include "channel/send_group.h"

#include <vector>

#include "guest/pagemap.h"

namespace multifd {
namespace {

Result<void> refuse_huge_pages(const GuestMemory& memory) {
  auto pagemap = Pagemap::open();
  if (!pagemap) return pagemap.error();
  for (const RamBlock& block : memory.blocks()) {
    const auto huge = pagemap->has_huge_pages(block.host(), {0, block.page_count()});
    if (!huge) return huge.error();
    if (!*huge) continue;
    return Error::make(ErrorCode::kUnsupported,
                       "huge pages hold RAM block \"%s\", and the kernel charges sends from "
                       "registered huge pages to the socket many times over",
                       block.idstr.c_str());
  }
  return {};
}

}  // namespace

Result<std::shared_ptr<const RegisteredMemory>> register_memory(RamState& ram) {
  if (auto allowed = refuse_huge_pages(ram.memory()); !allowed) return allowed.error();
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
