// The RAM blocks of one virtual machine. Immutable once sealed; shared by every thread that moves
// pages. Whoever uses it holds a Lease, so that an owner that has to take the memory away (a
// JavaScript environment that ends) can stop the users first.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "guest/mapping.h"

namespace multifd {

struct RamBlock {
  std::string idstr;                 // 1..255 bytes, unique
  std::shared_ptr<Mapping> mapping;
  uint64_t first_page = 0;           // of the mapping, where the block begins
  uint64_t used_length = 0;          // bytes, multiple of kPageSize

  [[nodiscard]] uint8_t* host() const { return mapping->base() + first_page * kPageSize; }
  [[nodiscard]] uint64_t page_count() const { return used_length / kPageSize; }
  [[nodiscard]] Result<void> populated(PageRange asked, std::vector<PageRange>& out) const;
};

class GuestMemory {
 public:
  // Names must be unique, lengths page-aligned and inside their mapping.
  static Result<std::shared_ptr<GuestMemory>> create(std::vector<RamBlock> blocks);

  [[nodiscard]] const std::vector<RamBlock>& blocks() const { return blocks_; }
  [[nodiscard]] const RamBlock* find(std::string_view idstr) const;
  [[nodiscard]] uint64_t total_bytes() const;

  // Makes every block read as zero without being resident.
  Result<void> empty() const;

  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept;
    Lease& operator=(Lease&& other) noexcept;
    ~Lease();

   private:
    friend class GuestMemory;
    GuestMemory* memory_ = nullptr;
    std::list<std::function<void()>>::iterator entry_;
  };
  // `stop` is called (once, from the revoking thread) when the memory must go; it must make the
  // holder drop its lease soon. Fails with kClosed after revoke().
  Result<Lease> lease(std::function<void()> stop);
  // Stops every user and returns when the last lease is gone. Idempotent.
  void revoke();

 private:
  explicit GuestMemory(std::vector<RamBlock> blocks) : blocks_(std::move(blocks)) {}
  const std::vector<RamBlock> blocks_;
  std::mutex mutex_;  // guards leases_ and revoked_; never held while pages move
  std::condition_variable released_;
  std::list<std::function<void()>> leases_;
  bool revoked_ = false;
};

}  // namespace multifd
