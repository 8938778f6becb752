#include "engine/release_ledger.h"

#include <cassert>

namespace multifd {

ReleaseLedger::ReleaseLedger(uint32_t capacity, uint32_t first_id)
    : entries_(capacity), mask_(capacity - 1), oldest_(first_id), next_id_(first_id) {
  assert((capacity & mask_) == 0 && "capacity must be a power of two");
}

void ReleaseLedger::sent(uint32_t record, size_t bytes) {
  assert(!full());
  entries_[next_id_ & mask_] = {bytes, record, true};
  ++next_id_;
  ++unreleased_sends_;
  unreleased_bytes_ += bytes;
}

}  // namespace multifd
