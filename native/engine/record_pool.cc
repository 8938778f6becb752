#include "engine/record_pool.h"

#include "base/census.h"

namespace multifd {

RecordPool::RecordPool(uint32_t count) {
  records_.reserve(count);
  free_.reserve(count);
  for (uint32_t i = 0; i < count; ++i) {
    records_.push_back(std::make_unique_for_overwrite<SendRecord>());
    records_.back()->index = i;
    records_.back()->unreleased_calls = 0;
    records_.back()->submitting = false;
    free_.push_back(records_.back().get());
  }
}

RecordPool::~RecordPool() {
  for (auto& record : records_) {
    if (record->unreleased_calls == 0) continue;
    static_cast<void>(record.release());
    census(Resource::kLeakedRecord).fetch_add(1, std::memory_order_relaxed);
  }
}

SendRecord* RecordPool::take() {
  if (free_.empty()) return nullptr;
  SendRecord* const record = free_.back();
  free_.pop_back();
  record->iov_count = 0;
  record->bytes = 0;
  record->more = false;
  record->plain = false;
  return record;
}

void RecordPool::call_released(uint32_t index) {
  SendRecord& record = *records_[index];
  --record.unreleased_calls;
  free_if_done(record);
}

void RecordPool::end_submit(SendRecord& record) {
  record.submitting = false;
  free_if_done(record);
}

void RecordPool::free_if_done(SendRecord& record) {
  if (!record.submitting && record.unreleased_calls == 0) free_.push_back(&record);
}

}  // namespace multifd
