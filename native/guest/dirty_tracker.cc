// What most trackers do with a page that is sent: nothing. Only the hash tracker listens.
#include "guest/dirty_tracker.h"

namespace multifd {

void DirtyTracker::sent(uint32_t /*block*/, uint64_t /*page*/, const uint8_t* /*copy*/) {}

}  // namespace multifd
