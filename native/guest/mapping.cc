// See mapping.h. Facts: madvise(2), fallocate(2), lseek(2) (SEEK_DATA).
#include "guest/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "guest/page_ops.h"

namespace multifd {

namespace {

constexpr size_t kHugePageSize = 2 * 1024 * 1024;

Result<void> check_size(size_t size_bytes) {
  const long host_page = sysconf(_SC_PAGESIZE);
  if (host_page != static_cast<long>(kPageSize)) {
    return Error::make(ErrorCode::kUnsupported,
                       "the host's pages have %ld bytes, expected %zu; boot a kernel with 4 KiB "
                       "pages",
                       host_page, kPageSize);
  }
  if (size_bytes == 0 || size_bytes % kPageSize != 0) {
    return Error::make(ErrorCode::kLimit,
                       "a mapping cannot have %zu bytes, expected a multiple of %zu above 0",
                       size_bytes, kPageSize);
  }
  if (size_bytes > (1ULL << 46)) {
    return Error::make(ErrorCode::kLimit,
                       "a mapping cannot have %zu bytes, expected at most 64 TiB", size_bytes);
  }
  return {};
}

// Reserves more than asked and trims, so that the base lies on a huge page's boundary.
Result<uint8_t*> map_aligned(size_t size_bytes, int flags, int fd,
                             int protection = PROT_READ | PROT_WRITE) {
  const size_t padded = size_bytes + kHugePageSize;
  void* const reserved =
      mmap(nullptr, padded, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) {
    return Error::from_errno("mmap", "cannot reserve %zu bytes of address space", padded);
  }
  uint8_t* const start = static_cast<uint8_t*>(reserved);
  const uintptr_t address = reinterpret_cast<uintptr_t>(start);
  const size_t head = (kHugePageSize - address % kHugePageSize) % kHugePageSize;
  uint8_t* const base = start + head;
  void* const mapped =
      mmap(base, size_bytes, protection, flags | MAP_FIXED | MAP_NORESERVE, fd, 0);
  if (mapped == MAP_FAILED) {
    const Error error = Error::from_errno("mmap", "cannot map %zu bytes of memory", size_bytes);
    munmap(reserved, padded);
    return error;
  }
  if (head > 0) munmap(start, head);
  const size_t tail = padded - head - size_bytes;
  if (tail > 0) munmap(base + size_bytes, tail);
  return base;
}

Result<UniqueFd> open_regular(const std::string& path, int flags, off_t& length) {
  // NONBLOCK: opening somebody's named pipe must give the error below, not wait for a reader.
  UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK, 0600), Resource::kBackingFd);
  if (!fd) return Error::from_errno("open", "cannot open memory file \"%s\"", path.c_str());
  struct stat status;
  if (fstat(fd.get(), &status) != 0) {
    return Error::from_errno("fstat", "cannot ask for the size of \"%s\"", path.c_str());
  }
  if (!S_ISREG(status.st_mode)) {
    return Error::make(ErrorCode::kUnsupported,
                       "\"%s\" is not a regular file; guest memory needs one", path.c_str());
  }
  length = status.st_size;
  return fd;
}

}  // namespace

Mapping::Mapping(MappingKind kind, uint8_t* base, size_t size_bytes, UniqueFd fd,
                 std::optional<Pagemap> pagemap, bool read_only)
    : kind_(kind),
      base_(base),
      size_bytes_(size_bytes),
      fd_(std::move(fd)),
      pagemap_(std::move(pagemap)),
      read_only_(read_only),
      entry_(Resource::kMapping) {}

Mapping::~Mapping() {
  if (kind_ != MappingKind::kExternal) munmap(base_, size_bytes_);
}

Result<std::shared_ptr<Mapping>> Mapping::allocate(size_t size_bytes, bool huge_pages) {
  if (const Result<void> size = check_size(size_bytes); !size) return size.error();
  Result<Pagemap> pagemap = Pagemap::open();
  if (!pagemap) return pagemap.error();
  const Result<uint8_t*> base = map_aligned(size_bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  if (!base) return base.error();
  // Advice only: a kernel without transparent huge pages refuses, and small pages do as well.
  madvise(*base, size_bytes, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  return std::shared_ptr<Mapping>(new Mapping(MappingKind::kAnonymous, *base, size_bytes,
                                              UniqueFd(), std::move(*pagemap)));
}

Result<std::shared_ptr<Mapping>> Mapping::map_shared(MappingKind kind, UniqueFd fd,
                                                     size_t size_bytes, bool read_only) {
  const int protection = read_only ? PROT_READ : PROT_READ | PROT_WRITE;
  const Result<uint8_t*> base = map_aligned(size_bytes, MAP_SHARED, fd.get(), protection);
  if (!base) return base.error();
  return std::shared_ptr<Mapping>(
      new Mapping(kind, *base, size_bytes, std::move(fd), std::nullopt, read_only));
}

Result<std::shared_ptr<Mapping>> Mapping::open_memfd(const std::string& name,
                                                     size_t size_bytes) {
  if (const Result<void> size = check_size(size_bytes); !size) return size.error();
  UniqueFd fd(memfd_create(name.c_str(), MFD_CLOEXEC), Resource::kBackingFd);
  if (!fd) return Error::from_errno("memfd_create", "cannot create memfd \"%s\"", name.c_str());
  if (ftruncate(fd.get(), static_cast<off_t>(size_bytes)) != 0) {
    return Error::from_errno("ftruncate", "cannot give memfd \"%s\" %zu bytes", name.c_str(),
                             size_bytes);
  }
  return map_shared(MappingKind::kMemfd, std::move(fd), size_bytes);
}

Result<std::shared_ptr<Mapping>> Mapping::open_file(const std::string& path, size_t size_bytes) {
  if (const Result<void> size = check_size(size_bytes); !size) return size.error();
  off_t length = 0;
  auto fd = open_regular(path, O_RDWR | O_CREAT, length);
  if (!fd) return fd.error();
  if (length < static_cast<off_t>(size_bytes) &&
      ftruncate(fd->get(), static_cast<off_t>(size_bytes)) != 0) {
    return Error::from_errno("ftruncate", "cannot extend \"%s\" to %zu bytes", path.c_str(),
                             size_bytes);
  }
  return map_shared(MappingKind::kFile, std::move(*fd), size_bytes);
}

Result<std::shared_ptr<Mapping>> Mapping::open_file_read_only(const std::string& path,
                                                              size_t size_bytes) {
  if (const Result<void> size = check_size(size_bytes); !size) return size.error();
  off_t length = 0;
  auto fd = open_regular(path, O_RDONLY, length);
  if (!fd) return fd.error();
  // Beyond its end a mapped file cannot be read: the first look there would end the process.
  if (length < static_cast<off_t>(size_bytes)) {
    return Error::make(ErrorCode::kLimit, "\"%s\" has %lld bytes, expected at least %zu",
                       path.c_str(), static_cast<long long>(length), size_bytes);
  }
  return map_shared(MappingKind::kFile, std::move(*fd), size_bytes, true);
}

Result<std::shared_ptr<Mapping>> Mapping::external(void* base, size_t size_bytes) {
  if (const Result<void> size = check_size(size_bytes); !size) return size.error();
  if (base == nullptr || reinterpret_cast<uintptr_t>(base) % kPageSize != 0) {
    return Error::make(ErrorCode::kLimit,
                       "external memory begins at %p, expected a multiple of %zu", base,
                       kPageSize);
  }
  Result<Pagemap> pagemap = Pagemap::open();
  if (!pagemap) return pagemap.error();
  return std::shared_ptr<Mapping>(new Mapping(MappingKind::kExternal,
                                              static_cast<uint8_t*>(base), size_bytes, UniqueFd(),
                                              std::move(*pagemap)));
}

Result<void> Mapping::check_range(PageRange range) const {
  const uint64_t pages = size_bytes_ / kPageSize;
  if (range.first > pages || range.count > pages - range.first) {
    return Error::make(ErrorCode::kLimit,
                       "pages %llu + %llu lie outside a mapping of %llu pages",
                       static_cast<unsigned long long>(range.first),
                       static_cast<unsigned long long>(range.count),
                       static_cast<unsigned long long>(pages));
  }
  return {};
}

Result<void> Mapping::populated(PageRange asked, std::vector<PageRange>& out) const {
  if (const Result<void> inside = check_range(asked); !inside) return inside;
  if (pagemap_) return pagemap_->populated(base_, asked, out);
  const size_t floor = out.size();
  const uint64_t end = asked.first + asked.count;
  while (asked.count > 0) {
    Result<PageRange> data = next_data(asked);
    if (!data) return data.error();
    if (data->count == 0) break;
    append_range(out, floor, *data);
    asked.first = data->first + data->count;
    asked.count = end - asked.first;
  }
  return {};
}

PageRange Mapping::known_data(PageRange asked) const {
  const std::lock_guard lock(known_mutex_);
  // Pairs with discard(): whoever sees the memory gone sees that it was discarded.
  if (known_at_discards_ != discards_.load(std::memory_order_acquire)) return {};
  const uint64_t known_end = known_data_.first + known_data_.count;
  if (asked.first < known_data_.first || asked.first >= known_end) return {};
  return {asked.first, std::min(asked.count, known_end - asked.first)};
}

void Mapping::remember_data(PageRange stretch, uint64_t discards) const {
  const std::lock_guard lock(known_mutex_);
  known_data_ = stretch;
  known_at_discards_ = discards;
}

Result<PageRange> Mapping::next_data(PageRange asked) const {
  if (const PageRange known = known_data(asked); known.count > 0) return known;
  // Before the look: what is discarded during it is found here, but not remembered.
  const uint64_t discards = discards_.load(std::memory_order_acquire);
  const off_t end = static_cast<off_t>((asked.first + asked.count) * kPageSize);
  const off_t data = lseek(fd_.get(), static_cast<off_t>(asked.first * kPageSize), SEEK_DATA);
  if (data < 0 && errno == ENXIO) return PageRange{};
  if (data < 0) return Error::from_errno("lseek(SEEK_DATA)", "cannot ask what memory holds data");
  if (data >= end) return PageRange{};
  const off_t hole = lseek(fd_.get(), data, SEEK_HOLE);
  if (hole < 0) {
    return Error::from_errno("lseek(SEEK_HOLE)", "cannot ask where a stretch of data ends");
  }
  // A file system's unit may be smaller than a page. At least one page: between the two calls the
  // data may have become a hole, and an empty answer would hide all that follows it.
  const uint64_t first = static_cast<uint64_t>(data) / kPageSize;
  const uint64_t stop = (static_cast<uint64_t>(hole) + kPageSize - 1) / kPageSize;
  const uint64_t count = std::max<uint64_t>(stop - std::min(stop, first), 1);
  remember_data({first, count}, discards);
  return PageRange{first, std::min(count, asked.first + asked.count - first)};
}

Result<void> Mapping::discard(PageRange range) {
  if (const Result<void> inside = check_range(range); !inside) return inside;
  if (range.count == 0) return {};
  if (read_only_) {
    return Error::make(ErrorCode::kState, "the memory is a file that was opened read-only");
  }
  const size_t offset = range.first * kPageSize;
  const size_t size = range.count * kPageSize;
  if (kind_ == MappingKind::kExternal || kind_ == MappingKind::kAnonymous) {
    if (madvise(base_ + offset, size, MADV_DONTNEED) == 0) return {};
    if (errno == EINVAL) return write_zeros(range);  // locked memory cannot be given back
    return Error::from_errno("madvise(MADV_DONTNEED)", "cannot discard %zu bytes of memory", size);
  }
  if (fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                static_cast<off_t>(offset), static_cast<off_t>(size)) == 0) {
    discards_.fetch_add(1, std::memory_order_release);  // pairs with next_data()
    return {};
  }
  if (errno == EOPNOTSUPP || errno == ENOSYS) return write_zeros(range);
  return Error::from_errno("fallocate(PUNCH_HOLE)", "cannot discard %zu bytes of a file", size);
}

Result<void> Mapping::write_zeros(PageRange range) const {
  std::vector<PageRange> touched;
  if (const Result<void> asked = populated(range, touched); !asked) return asked;
  for (const PageRange& stretch : touched) {
    for (uint64_t page = 0; page < stretch.count; ++page) {
      zero_page_if_needed(base_ + (stretch.first + page) * kPageSize);
    }
  }
  return {};
}

}  // namespace multifd
