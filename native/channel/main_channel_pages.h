// Pages that a QEMU source sends on the main channel, as words of the RAM section: all zero pages
// up to 8.2, and with multifd off every page. They go into the same memory as the packets', by the
// same book of received pages.
//
// Called on one thread, while receive channels may run: a page travels once between two sync
// points, so no two of them write the same page, unless the source is hostile, and then only guest
// memory is at stake.
#pragma once

#include <cstdint>
#include <span>

#include "channel/receive_channel.h"

namespace multifd {

// The pages are zero now. Those that were never received are absent, and stay so.
Result<void> apply_zero_run(ReceiveGroup& group, uint32_t block, PageRange run);

// Whole pages, from `first_page` on; marks them as received.
Result<void> apply_pages(ReceiveGroup& group, uint32_t block, uint64_t first_page,
                         std::span<const uint8_t> bytes);

}  // namespace multifd
