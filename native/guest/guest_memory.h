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
#include <thread>
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
  // Mapping::populated(), in pages from the start of the block.
  [[nodiscard]] Result<void> populated(PageRange asked, std::vector<PageRange>& out) const;
};

class RamState;

class GuestMemory : public std::enable_shared_from_this<GuestMemory> {
  struct User {
    std::function<void()> stop;
    bool called = false;      // stop ran or runs
    bool released = false;    // the lease went while stop ran: the revoker erases the entry
    std::thread::id running;  // the thread in stop, while it is
  };

 public:
  // At least one block; names unique, lengths page-aligned and inside their mapping, no two blocks
  // over the same memory.
  static Result<std::shared_ptr<GuestMemory>> create(std::vector<RamBlock> blocks);

  [[nodiscard]] const std::vector<RamBlock>& blocks() const { return blocks_; }
  [[nodiscard]] const RamBlock* find(std::string_view idstr) const;
  [[nodiscard]] uint64_t total_bytes() const;

  // Makes every block read as zero without being resident.
  Result<void> empty() const;

  // The source's book of a migration, which has to hear of discards for as long as it lives.
  // Fails with kState while there is another one.
  Result<void> attach(const std::shared_ptr<RamState>& ram);
  // The VMM drops pages, from any thread and environment, migrating or not.
  Result<void> discard(uint32_t block, PageRange range);

  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept;
    Lease& operator=(Lease&& other) noexcept;
    ~Lease();

   private:
    friend class GuestMemory;
    void drop();
    std::shared_ptr<GuestMemory> memory_;
    std::list<User>::iterator user_;
  };
  // `stop` is called (at most once, from the revoking thread, with no lock held) when the memory
  // must go; it must make the holder drop its lease soon, and only signals: it may drop the lease
  // itself, but must not wait for another thread that drops it. Dropping a lease waits for its own
  // stop to return, so stop may refer to whatever outlives the lease. Fails with kClosed after
  // revoke().
  Result<Lease> lease(std::function<void()> stop);
  // Stops every user and returns when the last lease is gone. Idempotent; several threads may call
  // it. Never from a thread that holds a lease which only it would drop.
  void revoke();

 private:
  explicit GuestMemory(std::vector<RamBlock> blocks) : blocks_(std::move(blocks)) {}
  const std::vector<RamBlock> blocks_;
  void release(std::list<User>::iterator user);
  // Guarded by mutex_, which is never held while pages move or a stop runs.
  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<User> users_;
  bool revoked_ = false;
  // Guards migrating_, and is held over a discard: one that saw no migration is over before a
  // migration asks what is populated.
  std::mutex discard_mutex_;
  std::weak_ptr<RamState> migrating_;
};

}  // namespace multifd
