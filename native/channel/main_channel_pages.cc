#include "channel/main_channel_pages.h"

#include "guest/file_write.h"
#include "guest/page_ops.h"

namespace multifd {

namespace {

Result<const RamBlock*> checked_block(const ReceiveGroup& group, uint32_t index, PageRange run) {
  const auto& blocks = group.memory->blocks();
  if (index < blocks.size() && run.first <= blocks[index].page_count() &&
      run.count <= blocks[index].page_count() - run.first) {
    return &blocks[index];
  }
  return Error::make(ErrorCode::kLimit,
                     "pages %llu + %llu lie outside RAM block number %u of %zu",
                     static_cast<unsigned long long>(run.first),
                     static_cast<unsigned long long>(run.count), index, blocks.size());
}

// Stretches of one kind at once: a hole costs one system call.
Result<void> zero_received(const RamBlock& block, PageRange stretch) {
  if (block.mapping->reads_allocate()) {
    return block.mapping->discard({block.first_page + stretch.first, stretch.count});
  }
  for (uint64_t page = stretch.first; page < stretch.first + stretch.count; ++page) {
    zero_page_if_needed(block.host() + page * kPageSize);
  }
  return {};
}

// The first stretch of received pages in `run`; count 0: there is none.
PageRange next_received(const DirtyBitmap& received, PageRange run) {
  const uint64_t end = run.first + run.count;
  uint64_t first = run.first;
  while (first < end && !received.test(first)) {
    const uint64_t word = first / kPagesPerWord;
    if (received.word(word).load(std::memory_order_relaxed) == 0) {
      first = (word + 1) * kPagesPerWord;  // 64 pages at a time where nothing ever came
    } else {
      ++first;
    }
  }
  uint64_t stop = first;
  while (stop < end && received.test(stop)) ++stop;
  return first < end ? PageRange{first, stop - first} : PageRange{end, 0};
}

}  // namespace

Result<void> apply_zero_run(ReceiveGroup& group, uint32_t block, PageRange run) {
  const auto found = checked_block(group, block, run);
  if (!found) return found.error();
  const auto lease = group.memory->lease([] {});
  if (!lease) return lease.error();
  const uint64_t end = run.first + run.count;
  for (;;) {
    const PageRange stretch = next_received(group.received[block], run);
    if (stretch.count == 0) return {};
    if (auto zeroed = zero_received(**found, stretch); !zeroed) return zeroed;
    run.first = stretch.first + stretch.count;
    run.count = end - run.first;
  }
}

Result<void> apply_pages(ReceiveGroup& group, uint32_t block, uint64_t first_page,
                         std::span<const uint8_t> bytes) {
  const PageRange run{first_page, bytes.size() / kPageSize};
  if (bytes.size() % kPageSize != 0) {
    return Error::make(ErrorCode::kLimit, "got %zu bytes for whole pages of %zu", bytes.size(),
                       kPageSize);
  }
  const auto found = checked_block(group, block, run);
  if (!found) return found.error();
  const auto lease = group.memory->lease([] {});
  if (!lease) return lease.error();
  const RamBlock& target = **found;
  group.received[block].set(run);
  if (target.mapping->reads_allocate()) {
    return write_to_file(*target.mapping, (target.first_page + run.first) * kPageSize, bytes);
  }
  for (uint64_t page = 0; page < run.count; ++page) {
    copy_page(target.host() + (run.first + page) * kPageSize, bytes.data() + page * kPageSize);
  }
  return {};
}

}  // namespace multifd
