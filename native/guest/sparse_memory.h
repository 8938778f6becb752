// Private zeroed memory for tables that are as large as the guest but mostly untouched: bitmaps,
// hashes. Costs what was written to it. Not guest memory: that is mapping.h's.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/census.h"
#include "base/result.h"

namespace multifd {

class SparseMemory {
 public:
  SparseMemory() = default;
  static Result<SparseMemory> create(size_t size_bytes) {
    SparseMemory memory;
    // NORESERVE: the address space of a table is not a promise to fill it.
    void* const base = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
      return Error::from_errno("mmap", "cannot reserve %zu bytes of address space for a table",
                               size_bytes);
    }
    memory.base_ = base;
    memory.size_bytes_ = size_bytes;
    census(Resource::kMapping).fetch_add(1, std::memory_order_relaxed);
    return memory;
  }
  SparseMemory(SparseMemory&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)),
        size_bytes_(std::exchange(other.size_bytes_, 0)) {}
  SparseMemory& operator=(SparseMemory&& other) noexcept {
    if (this != &other) {
      reset();
      base_ = std::exchange(other.base_, nullptr);
      size_bytes_ = std::exchange(other.size_bytes_, 0);
    }
    return *this;
  }
  ~SparseMemory() { reset(); }

  [[nodiscard]] void* base() const { return base_; }

 private:
  void reset() {
    if (base_ == nullptr) return;
    munmap(base_, size_bytes_);
    census(Resource::kMapping).fetch_sub(1, std::memory_order_relaxed);
    base_ = nullptr;
  }
  void* base_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace multifd
