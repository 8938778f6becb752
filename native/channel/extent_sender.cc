#include "channel/extent_sender.h"

#include <bit>

#include "base/iov.h"
#include "guest/page_ops.h"

namespace multifd {
namespace {

// A page takes about 0.3 us to test and copy, a cache miss 0.1 us; far enough ahead, and not so far
// that the line is gone again.
constexpr size_t kPrefetchPages = 4;

}  // namespace

ExtentSender::ExtentSender(RamState& ram, Engine& engine, std::atomic<uint64_t>& packet_num,
                           Progress progress, PacketSize size, PayloadEncoder* encoder)
    : ram_(ram),
      engine_(engine),
      packet_num_(packet_num),
      progress_(std::move(progress)),
      encoder_(encoder),
      packet_pages_(packet_pages(size)),
      header_size_(ram_header_size(packet_pages_)),
      packets_per_record_(size == PacketSize::kLarge ? 1 : kPacketsPerRecord),
      copies_bytes_(ram.tracker().wants_sent_copies()
                        ? packets_per_record_ * packet_pages_ * kPageSize
                        : 0),
      body_bytes_max_(encoder != nullptr ? encoder->bytes_max() : 0) {}

Result<void> ExtentSender::send(const Extent& extent) {
  engine_.begin_extent();
  if (auto collected = ram_.late_collect(extent); !collected) return collected;
  block_index_ = extent.block;
  const RamBlock& block = ram_.memory().blocks()[extent.block];
  populated_.clear();
  populated_at_ = 0;
  if (auto found = block.populated({extent.first_page, extent.page_count}, populated_); !found) {
    return found;
  }
  const DirtyBitmap& round = ram_.round(extent.block);
  const uint64_t end_word =
      (extent.first_page + extent.page_count + kPagesPerWord - 1) / kPagesPerWord;
  for (uint64_t word = extent.first_page / kPagesPerWord; word < end_word; ++word) {
    uint64_t bits = round.word(word).load(std::memory_order_relaxed);
    for (; bits != 0; bits &= bits - 1) {
      const uint64_t page = word * kPagesPerWord + static_cast<uint64_t>(std::countr_zero(bits));
      if (auto added = add_page(block, page); !added) return added;
    }
  }
  if (packet_open_) {
    if (auto closed = close_packet(block); !closed) return closed;
  }
  return submit_record();
}

Result<void> ExtentSender::send_sync() {
  if (auto flushed = engine_.flush(0); !flushed) return flushed;
  if (auto opened = open_packet(); !opened) return opened;
  packet_open_ = false;
  fill_ram_header(open_header(),
                  {.flags = kFlagSync,
                   .packet_num = packet_num_.fetch_add(1, std::memory_order_relaxed),
                   .block = {},
                   .normal = {},
                   .zero = {}});
  ++packets_in_record_;
  ++counters_.packets;
  return submit_record();
}

Result<void> ExtentSender::add_page(const RamBlock& block, uint64_t page) {
  uint8_t* const host = block.host() + page * kPageSize;
  // The zero test waits for the page's first cache line: ask for that of a later page now. A
  // prefetch that points beyond the block does nothing.
  __builtin_prefetch(host + kPrefetchPages * kPageSize);
  const bool zero = is_absent(page) || is_zero_page(host);
  if (zero && copies_bytes_ > 0) ram_.tracker().sent(block_index_, page, nullptr);
  if (zero && ram_.collects_zero_pages()) {
    ram_.found_zero(block_index_, page);
    ++counters_.zero_pages;
    return {};
  }
  if (!packet_open_) {
    if (auto opened = open_packet(); !opened) return opened;
  }
  if (zero) {
    zero_[zero_count_++] = page * kPageSize;
  } else {
    normal_[normal_count_++] = page * kPageSize;
    add_payload(block_index_, page, host);
  }
  return normal_count_ + zero_count_ == packet_pages_ ? close_packet(block) : Result<void>();
}

void ExtentSender::add_payload(uint32_t block, uint64_t page, uint8_t* host) {
  if (copies_bytes_ > 0) {
    uint8_t* const copy = record_->own_bodies.get() + copied_pages_++ * kPageSize;
    copy_page(copy, host);
    ram_.tracker().sent(block, page, copy);
    host = copy;
  }
  iovec& last = record_->iov[record_->iov_count - 1];
  // The header's iovec is the first of its packet and lies elsewhere, so it is never extended.
  if (static_cast<uint8_t*>(last.iov_base) + last.iov_len == host) {
    last.iov_len += kPageSize;
    record_->bytes += kPageSize;
  } else {
    record_->add(host, kPageSize);
  }
}

Result<void> ExtentSender::open_packet() {
  if (record_ == nullptr) {
    auto acquired = engine_.acquire();
    if (!acquired) return acquired.error();
    record_ = *acquired;
    packets_in_record_ = 0;
    copied_pages_ = 0;
    // In the record, and not here: the kernel may still read them when a channel was told to stop
    // in the middle of a submission, which this object does not outlive.
    const size_t own_bytes = copies_bytes_ + packets_per_record_ * body_bytes_max_;
    if (own_bytes > 0 && record_->own_bodies == nullptr) {
      record_->own_bodies = std::make_unique_for_overwrite<uint8_t[]>(own_bytes);
    }
  }
  record_->add(open_header().data(), header_size_);
  body_iov_ = record_->iov_count;
  normal_count_ = 0;
  zero_count_ = 0;
  packet_open_ = true;
  return {};
}

Result<void> ExtentSender::close_packet(const RamBlock& block) {
  packet_open_ = false;
  uint32_t compressed_bytes = 0;
  if (encoder_ != nullptr && normal_count_ > 0) {
    auto encoded = encode_body();
    if (!encoded) return encoded.error();
    compressed_bytes = *encoded;
  }
  fill_ram_header(open_header(),
                  {.flags = encoder_ != nullptr ? encoder_->flag() : 0,
                   .packet_num = packet_num_.fetch_add(1, std::memory_order_relaxed),
                   .block = block.idstr,
                   .normal = {normal_.data(), normal_count_},
                   .zero = {zero_.data(), zero_count_},
                   .compressed_bytes = compressed_bytes});
  ++packets_in_record_;
  ++counters_.packets;
  counters_.normal_pages += normal_count_;
  counters_.zero_pages += zero_count_;
  if (packets_in_record_ < packets_per_record_) return {};
  // Nothing but zero pages: the kernel may collect such headers until a segment is full, or the
  // SYNC comes. To push each of them costs half as much as finding its pages.
  record_->more = record_->bytes == packets_per_record_ * header_size_;
  return submit_record();
}

// Puts the compressed body in the place of the open packet's pages; behind the record's copies.
Result<uint32_t> ExtentSender::encode_body() {
  SendRecord& record = *record_;
  uint8_t* const body =
      record.own_bodies.get() + copies_bytes_ + packets_in_record_ * body_bytes_max_;
  const std::span<const iovec> runs(&record.iov[body_iov_], record.iov_count - body_iov_);
  const auto encoded = encoder_->encode(runs, {body, body_bytes_max_});
  if (!encoded) return encoded.error();
  record.bytes -= bytes_of(runs);
  record.iov_count = body_iov_;
  record.add(body, *encoded);
  return static_cast<uint32_t>(*encoded);
}

std::span<uint8_t> ExtentSender::open_header() {
  return std::span(record_->headers).subspan(packets_in_record_ * header_size_, header_size_);
}

Result<void> ExtentSender::submit_record() {
  if (record_ == nullptr) return {};
  SendRecord& record = *record_;
  record_ = nullptr;
  auto submitted = engine_.submit(record);
  progress_(counters_);
  return submitted;
}

bool ExtentSender::is_absent(uint64_t page) {
  while (populated_at_ < populated_.size() &&
         page >= populated_[populated_at_].first + populated_[populated_at_].count) {
    ++populated_at_;
  }
  return populated_at_ == populated_.size() || page < populated_[populated_at_].first;
}

}  // namespace multifd
