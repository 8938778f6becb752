// See guest_memory.h. The one subtle thing here is revoke(): stops run without the mutex, so that a
// stop may take any lock, and a lease that is dropped meanwhile waits for its own stop to return.
#include "guest/guest_memory.h"

#include <algorithm>
#include <utility>

#include "guest/ram_state.h"

namespace multifd {

namespace {

constexpr size_t kIdstrMaxBytes = 255;  // a length byte precedes it on the wire

Result<void> check_block(const RamBlock& block) {
  if (block.idstr.empty() || block.idstr.size() > kIdstrMaxBytes) {
    return Error::make(ErrorCode::kLimit, "a RAM block's name has %zu bytes, expected 1 to %zu",
                       block.idstr.size(), kIdstrMaxBytes);
  }
  if (block.mapping == nullptr) {
    return Error::make(ErrorCode::kLimit, "RAM block \"%s\" has no memory", block.idstr.c_str());
  }
  if (block.used_length == 0 || block.used_length % kPageSize != 0) {
    return Error::make(ErrorCode::kLimit,
                       "RAM block \"%s\" has %llu bytes, expected a multiple of %zu above 0",
                       block.idstr.c_str(), static_cast<unsigned long long>(block.used_length),
                       kPageSize);
  }
  const uint64_t pages = block.mapping->size_bytes() / kPageSize;
  if (block.first_page > pages || block.page_count() > pages - block.first_page) {
    return Error::make(ErrorCode::kLimit,
                       "RAM block \"%s\" ends beyond its mapping: pages %llu + %llu of %llu",
                       block.idstr.c_str(), static_cast<unsigned long long>(block.first_page),
                       static_cast<unsigned long long>(block.page_count()),
                       static_cast<unsigned long long>(pages));
  }
  return {};
}

Result<void> check_pair(const RamBlock& a, const RamBlock& b) {
  if (a.idstr == b.idstr) {
    return Error::make(ErrorCode::kLimit, "two RAM blocks are named \"%s\"", a.idstr.c_str());
  }
  const uintptr_t a_first = reinterpret_cast<uintptr_t>(a.host());
  const uintptr_t b_first = reinterpret_cast<uintptr_t>(b.host());
  if (a_first < b_first + b.used_length && b_first < a_first + a.used_length) {
    return Error::make(ErrorCode::kLimit, "RAM blocks \"%s\" and \"%s\" share memory",
                       a.idstr.c_str(), b.idstr.c_str());
  }
  return {};
}

}  // namespace

Result<void> RamBlock::populated(PageRange asked, std::vector<PageRange>& out) const {
  if (asked.first > page_count() || asked.count > page_count() - asked.first) {
    return Error::make(ErrorCode::kLimit, "pages %llu + %llu lie outside RAM block \"%s\"",
                       static_cast<unsigned long long>(asked.first),
                       static_cast<unsigned long long>(asked.count), idstr.c_str());
  }
  // Ranges that were there before count from somewhere else: only the new ones are shifted.
  const size_t floor = out.size();
  const Result<void> asked_mapping =
      mapping->populated({asked.first + first_page, asked.count}, out);
  for (size_t i = floor; i < out.size(); ++i) out[i].first -= first_page;
  return asked_mapping;
}

Result<std::shared_ptr<GuestMemory>> GuestMemory::create(std::vector<RamBlock> blocks) {
  if (blocks.empty()) {
    return Error::make(ErrorCode::kLimit, "guest memory needs at least one RAM block");
  }
  for (const RamBlock& block : blocks) {
    if (const Result<void> valid = check_block(block); !valid) return valid.error();
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (const Result<void> valid = check_pair(blocks[j], blocks[i]); !valid) {
        return valid.error();
      }
    }
  }
  return std::shared_ptr<GuestMemory>(new GuestMemory(std::move(blocks)));
}

const RamBlock* GuestMemory::find(std::string_view idstr) const {
  const auto found = std::find_if(blocks_.begin(), blocks_.end(), [idstr](const RamBlock& block) {
    return block.idstr == idstr;
  });
  return found == blocks_.end() ? nullptr : &*found;
}

uint64_t GuestMemory::total_bytes() const {
  uint64_t total = 0;
  for (const RamBlock& block : blocks_) total += block.used_length;
  return total;
}

Result<void> GuestMemory::attach(const std::shared_ptr<RamState>& ram) {
  const std::lock_guard lock(discard_mutex_);
  if (!migrating_.expired()) {
    return Error::make(ErrorCode::kState, "a migration of this memory is running already");
  }
  migrating_ = ram;
  return {};
}

Result<void> GuestMemory::discard(uint32_t index, PageRange range) {
  if (index >= blocks_.size() || range.first > blocks_[index].page_count() ||
      range.count > blocks_[index].page_count() - range.first) {
    return Error::make(ErrorCode::kLimit,
                       "cannot discard pages %llu + %llu of RAM block number %u: there are none",
                       static_cast<unsigned long long>(range.first),
                       static_cast<unsigned long long>(range.count), index);
  }
  const std::lock_guard lock(discard_mutex_);
  if (const auto ram = migrating_.lock()) return ram->discard(index, range);
  const RamBlock& block = blocks_[index];
  return block.mapping->discard({block.first_page + range.first, range.count});
}

Result<void> GuestMemory::empty() const {
  for (const RamBlock& block : blocks_) {
    const Result<void> emptied = block.mapping->discard({block.first_page, block.page_count()});
    if (!emptied) return emptied;
  }
  return {};
}

Result<GuestMemory::Lease> GuestMemory::lease(std::function<void()> stop) {
  const std::lock_guard lock(mutex_);
  if (revoked_) {
    return Error::make(ErrorCode::kClosed, "the guest memory was taken away by its owner");
  }
  Lease lease;
  lease.memory_ = shared_from_this();
  users_.emplace_back();
  lease.user_ = std::prev(users_.end());
  lease.user_->stop = std::move(stop);
  return lease;
}

void GuestMemory::release(std::list<User>::iterator user) {
  std::list<User> gone;  // destroyed after the mutex: what a stop captured may hold a lease, too
  std::unique_lock lock(mutex_);
  if (user->running == std::this_thread::get_id()) {
    user->released = true;  // our own stop dropped us: revoke() erases the entry after it returns
    return;
  }
  changed_.wait(lock, [user] { return user->running == std::thread::id(); });
  gone.splice(gone.begin(), users_, user);
  changed_.notify_all();
}

void GuestMemory::revoke() {
  std::list<User> gone;  // as in release()
  std::unique_lock lock(mutex_);
  revoked_ = true;
  while (true) {
    // Entries come and go while a stop runs: look from the start each time.
    const auto user =
        std::find_if(users_.begin(), users_.end(), [](const User& one) { return !one.called; });
    if (user == users_.end()) break;
    user->called = true;
    user->running = std::this_thread::get_id();
    lock.unlock();
    user->stop();
    lock.lock();
    user->running = std::thread::id();
    if (user->released) gone.splice(gone.begin(), users_, user);
    changed_.notify_all();
  }
  changed_.wait(lock, [this] { return users_.empty(); });
}

GuestMemory::Lease::Lease(Lease&& other) noexcept
    : memory_(std::move(other.memory_)), user_(other.user_) {}

GuestMemory::Lease& GuestMemory::Lease::operator=(Lease&& other) noexcept {
  if (this != &other) {
    drop();
    memory_ = std::move(other.memory_);
    user_ = other.user_;
  }
  return *this;
}

GuestMemory::Lease::~Lease() { drop(); }

void GuestMemory::Lease::drop() {
  const std::shared_ptr<GuestMemory> memory = std::move(memory_);
  memory_ = nullptr;
  if (memory != nullptr) memory->release(user_);
}

}  // namespace multifd
