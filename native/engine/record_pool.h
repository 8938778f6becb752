// The records of one engine: which are free, and what becomes of those that the kernel never gave
// back. An engine takes, submits and returns; it alone knows when a record is released.
#pragma once

#include <memory>
#include <vector>

#include "engine/engine.h"

namespace multifd {

class RecordPool {
 public:
  explicit RecordPool(uint32_t count);
  // The kernel may still read what is unreleased: it must never be reused, so it is not freed but
  // leaked, and counted (Resource::kLeakedRecord).
  ~RecordPool();
  RecordPool(const RecordPool&) = delete;
  RecordPool& operator=(const RecordPool&) = delete;

  // An empty record; null when none is free.
  SendRecord* take();
  SendRecord& operator[](uint32_t index) { return *records_[index]; }
  // One kernel call no longer reads the record's memory.
  void call_released(uint32_t index);
  // Between these two the record stays taken, whatever is released.
  static void begin_submit(SendRecord& record) { record.submitting = true; }
  void end_submit(SendRecord& record);

 private:
  void free_if_done(SendRecord& record);
  std::vector<std::unique_ptr<SendRecord>> records_;
  std::vector<SendRecord*> free_;  // last in, first out: a plain engine uses one record only
};

}  // namespace multifd
