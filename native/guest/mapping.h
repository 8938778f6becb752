// One mapping of guest memory and what the kernel knows about it: what is populated, how to make
// it empty. The only place in native/ that maps and unmaps guest memory. It knows nothing of RAM
// blocks, migrations or channels.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "guest/page.h"
#include "guest/pagemap.h"

namespace multifd {

enum class MappingKind : uint8_t {
  kExternal,   // private anonymous memory of somebody else: a WebAssembly.Memory
  kAnonymous,  // ours, private anonymous, transparent huge pages advised
  kMemfd,      // ours, a sparse memfd mapped shared
  kFile,       // ours, a file mapped shared
};

class Mapping {
 public:
  // Sizes are bytes, above 0, multiples of kPageSize. The base of memory that is ours is 2 MiB
  // aligned. Address space is reserved, not memory: overcommitting is the caller's choice.
  static Result<std::shared_ptr<Mapping>> allocate(size_t size_bytes, bool huge_pages);
  static Result<std::shared_ptr<Mapping>> open_memfd(const std::string& name, size_t size_bytes);
  // Opens or creates `path` and extends it (sparsely) to size_bytes; never shrinks it.
  static Result<std::shared_ptr<Mapping>> open_file(const std::string& path, size_t size_bytes);
  // Opens a file that must be there and at least as long: nothing writes to it, not even by
  // mistake. Memory that is only sent, for instance a stored snapshot's.
  static Result<std::shared_ptr<Mapping>> open_file_read_only(const std::string& path,
                                                              size_t size_bytes);
  // The caller keeps the memory mapped for as long as this object lives (see GuestMemory::revoke).
  static Result<std::shared_ptr<Mapping>> external(void* base, size_t size_bytes);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  [[nodiscard]] uint8_t* base() const { return base_; }
  [[nodiscard]] size_t size_bytes() const { return size_bytes_; }
  [[nodiscard]] MappingKind kind() const { return kind_; }
  [[nodiscard]] int fd() const { return fd_.get(); }
  // A write through base() ends the process.
  [[nodiscard]] bool read_only() const { return read_only_; }
  // Reading a hole through the mapping would allocate it (memfd, file), or not (anonymous).
  [[nodiscard]] bool reads_allocate() const {
    return kind_ == MappingKind::kMemfd || kind_ == MappingKind::kFile;
  }

  // Appends the ranges (pages from the start of the mapping, ascending, clipped to the question)
  // in which memory was ever touched and not given back. Never makes anything resident.
  Result<void> populated(PageRange asked, std::vector<PageRange>& out) const;
  // memfd and files only: the first stretch of the range that holds data; count 0: none. Allocates
  // nothing, for callers on the sending path.
  Result<PageRange> next_data(PageRange asked) const;
  // Makes the range read as zero and gives its memory back: MADV_DONTNEED, or a hole in the file.
  // Where neither is possible (locked memory, a file system without holes) writes zeros.
  Result<void> discard(PageRange range);

 private:
  Mapping(MappingKind kind, uint8_t* base, size_t size_bytes, UniqueFd fd,
          std::optional<Pagemap> pagemap, bool read_only = false);
  static Result<std::shared_ptr<Mapping>> map_shared(MappingKind kind, UniqueFd fd,
                                                     size_t size_bytes, bool read_only = false);
  Result<void> check_range(PageRange range) const;
  Result<void> write_zeros(PageRange range) const;
  [[nodiscard]] PageRange known_data(PageRange asked) const;
  void remember_data(PageRange stretch, uint64_t discards) const;
  // Immutable after construction.
  const MappingKind kind_;
  uint8_t* const base_;
  const size_t size_bytes_;
  const UniqueFd fd_;
  const std::optional<Pagemap> pagemap_;  // private anonymous kinds only
  const bool read_only_;
  // The stretch of data that was found last, to its end: the kernel walks over all of a stretch to
  // find that, each time that somebody looks at 16 MiB after 16 MiB of a large one. Only data is
  // remembered, and no longer than until the next discard: a hole may be written at any time.
  mutable std::mutex known_mutex_;
  mutable PageRange known_data_;            // guarded by known_mutex_
  mutable uint64_t known_at_discards_ = 0;  // guarded by known_mutex_
  std::atomic<uint64_t> discards_{0};       // shared: how many are over
  CensusEntry entry_;
};

}  // namespace multifd
