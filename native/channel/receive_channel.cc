#include "channel/receive_channel.h"

#include <bit>
#include <cassert>
#include <new>

#include "guest/file_write.h"
#include "guest/page_ops.h"
#include "guest/prefault.h"

namespace multifd {
namespace {

// Calls visit(word, bits) with the bits of the pages at these offsets, until it gives an error.
// They ascend as a rule, so that is once per word of a bitmap, and not once per page.
template <typename Visit>
Result<void> for_each_word(std::span<const uint64_t> offsets, Visit visit) {
  size_t i = 0;
  while (i < offsets.size()) {
    const uint64_t index = offsets[i] / kPageSize / kPagesPerWord;
    uint64_t bits = 0;
    for (; i < offsets.size() && offsets[i] / kPageSize / kPagesPerWord == index; ++i) {
      bits |= 1ULL << (offsets[i] / kPageSize % kPagesPerWord);
    }
    if (auto visited = visit(index, bits); !visited) return visited;
  }
  return {};
}

void set_pages(DirtyBitmap& bitmap, std::span<const uint64_t> offsets) {
  static_cast<void>(for_each_word(offsets, [&bitmap](uint64_t index, uint64_t bits) {
    std::atomic<uint64_t>& word = bitmap.word(index);
    // A look costs less than a locked access: in later rounds most bits are set already.
    if ((bits & ~word.load(std::memory_order_relaxed)) != 0) {
      word.fetch_or(bits, std::memory_order_relaxed);
    }
    return Result<void>();
  }));
}

}  // namespace

Result<std::shared_ptr<ReceiveGroup>> ReceiveGroup::create(std::shared_ptr<GuestMemory> memory) {
  auto group = std::make_shared<ReceiveGroup>();
  for (const RamBlock& block : memory->blocks()) {
    for (auto* const bitmaps : {&group->received, &group->received_since_sync}) {
      auto bitmap = DirtyBitmap::create(block.page_count());
      if (!bitmap) return bitmap.error();
      bitmaps->push_back(std::move(*bitmap));
    }
  }
  group->memory = std::move(memory);
  return group;
}

void ReceiveGroup::clear_received_since_sync() {
  for (DirtyBitmap& bitmap : received_since_sync) bitmap.clear();
}

Result<std::unique_ptr<ReceiveChannel>> ReceiveChannel::start(UniqueFd fd,
                                                              ReceiveChannelOptions options,
                                                              std::shared_ptr<ReceiveGroup> group,
                                                              Wakeup& wakeup) {
  assert(!(options.packet_size == PacketSize::kLarge && options.decoder));
  std::unique_ptr<ReceiveChannel> channel(
      new ReceiveChannel(std::move(fd), std::move(options), std::move(group), wakeup));
  if (auto prepared = channel->prepare(); !prepared) return prepared.error();
  auto lease = channel->group_->memory->lease([raw = channel.get()] { raw->destroy(); });
  if (!lease) return lease.error();
  channel->lease_.emplace(std::move(*lease));
  const std::string name =
      "multifd-recv-" + std::to_string(unsigned{channel->options_.channel_id});
  if (auto started = channel->ChannelThread::start(name); !started) return started.error();
  return channel;
}

ReceiveChannel::ReceiveChannel(UniqueFd fd, ReceiveChannelOptions options,
                               std::shared_ptr<ReceiveGroup> group, Wakeup& wakeup)
    : ChannelThread(wakeup),
      options_(std::move(options)),
      group_(std::move(group)),
      socket_(fd.get()),
      fd_(std::move(fd)),
      reader_(socket_, *options_.syscalls, stop_flag(),
              ram_header_size(packet_pages(options_.packet_size))),
      counters_(options_.counters) {
  if (options_.decoder) compressed_ = std::make_unique_for_overwrite<uint8_t[]>(kPayloadBytesMax);
}

ReceiveChannel::~ReceiveChannel() {
  destroy();
  join();
}

void ReceiveChannel::interrupt() {
  // The fd is closed only after join(), so the number is still ours.
  ::shutdown(socket_, SHUT_RDWR);
  park_.release();  // the stop flag is set: the wait ends
  device_states_.stop();
}

void ReceiveChannel::release_resources() { fd_.reset(); }

void ReceiveChannel::run() {
  publish();
  if (auto received = receive(); !received) {
    fail(received.error());
  } else if (!stopping()) {
    emit(EventKind::kPeerEnd);
  }
  publish();
  counters_.set(ReceiveCounter::kCpuNanoseconds, thread_cpu_nanoseconds());
  lease_.reset();  // nothing here touches guest memory any more
}

// Returns normally when the peer ended the stream between two packets, or when told to stop.
Result<void> ReceiveChannel::receive() {
  auto more = reader_.read_front();
  while (more && *more) {
    more = is_device_packet(reader_.front()) ? receive_device_state() : receive_pages();
  }
  if (!more) return more.error();
  return {};
}

Result<bool> ReceiveChannel::receive_pages() {
  if (auto complete = reader_.read_ram_header(); !complete || !*complete) return complete;
  const uint32_t compression_flag = options_.decoder ? options_.decoder->flag() : 0;
  if (auto parsed = parse_ram_header(reader_.ram_header(), header_, compression_flag); !parsed) {
    return parsed.error();
  }
  if (auto placed = place(header_); !placed) return placed.error();
  const bool sync = (header_.flags & kFlagSync) != 0;
  // Behind a SYNC nothing may be read before it is collected; otherwise the next header comes with
  // this payload in one system call.
  auto more = read_payload(!sync);
  ++packets_;
  if (!more) return more;
  // Told to stop, it may have returned in the middle of the payload.
  if (stopping()) return false;
  count_in(header_);
  normal_pages_ += header_.normal_pages;
  zero_pages_ += header_.zero_pages;
  if (!sync) {
    publish();
    return more;
  }
  ++syncs_;
  publish();
  emit(EventKind::kSyncArrived);
  if (!park_.wait(syncs_, stop_flag())) return false;
  return reader_.read_front();
}

Result<bool> ReceiveChannel::receive_device_state() {
  ReceivedDeviceState state;
  if (auto parsed = parse_device_header(reader_.front(), state.header); !parsed) {
    return parsed.error();
  }
  const size_t size = state.header.payload_bytes;
  state.bytes.reset(new (std::nothrow) uint8_t[size]);
  if (!state.bytes) {
    return Error::make(ErrorCode::kLimit, "there is no memory for %zu bytes of device \"%.64s\"",
                       size, state.header.idstr_bytes.data());
  }
  if (auto read = reader_.read_device_payload({state.bytes.get(), size}); !read || !*read) {
    return read;
  }
  ++packets_;
  device_state_bytes_ += kDeviceHeaderSize + size;
  publish();
  if (!device_states_.put(state)) return false;
  emit(EventKind::kDeviceState, static_cast<double>(size));
  if (!device_states_.wait_until_taken()) return false;
  return reader_.read_front();
}

// Checks the packet against its block, lists where its payload goes, and applies its zero pages.
Result<void> ReceiveChannel::place(const RamHeader& header) {
  iov_count_ = 0;
  payload_bytes_ = 0;
  if (header.pages() == 0) return {};
  if (last_block_ == nullptr || last_block_->idstr != header.block()) {
    last_block_ = group_->memory->find(header.block());
  }
  if (last_block_ == nullptr) {
    return Error::make(ErrorCode::kProtocol,
                       "got pages of RAM block \"%.64s\", which this destination does not have: "
                       "give both sides the same blocks",
                       header.block_bytes.data());
  }
  const RamBlock& block = *last_block_;
  if (auto checked = check_offsets(header, block.used_length); !checked) return checked;
  DirtyBitmap& received = group_->received[last_block_index()];
  set_pages(received, std::span(header.offsets).first(header.normal_pages));
  uint8_t* run_end = nullptr;
  for (uint32_t i = 0; i < header.normal_pages; ++i) {
    uint8_t* const host = block.host() + header.offsets[i];
    if (host == run_end) {
      iov_[iov_count_ - 1].iov_len += kPageSize;
    } else {
      iov_[iov_count_++] = {host, kPageSize};
    }
    run_end = host + kPageSize;
  }
  payload_bytes_ = header.payload_bytes;
  const auto zero = std::span(header.offsets).subspan(header.normal_pages, header.zero_pages);
  return for_each_word(zero, [&](uint64_t index, uint64_t bits) -> Result<void> {
    // The others were never written since the memory was emptied.
    bits &= received.word(index).load(std::memory_order_relaxed);
    for (; bits != 0; bits &= bits - 1) {
      const uint64_t page = index * kPagesPerWord + static_cast<uint64_t>(std::countr_zero(bits));
      if (auto zeroed = zero_page(block, page); !zeroed) return zeroed;
    }
    return {};
  });
}

// All of the packet is in memory.
void ReceiveChannel::count_in(const RamHeader& header) {
  if (header.pages() == 0) return;
  set_pages(group_->received_since_sync[last_block_index()],
            std::span(header.offsets).first(header.pages()));
}

size_t ReceiveChannel::last_block_index() const {
  return static_cast<size_t>(last_block_ - group_->memory->blocks().data());
}

Result<void> ReceiveChannel::zero_page(const RamBlock& block, uint64_t page) {
  if (block.mapping->reads_allocate()) {
    return block.mapping->discard({block.first_page + page, 1});
  }
  zero_page_if_needed(block.host() + page * kPageSize);
  return {};
}

Result<bool> ReceiveChannel::read_payload(bool with_front) {
  if (payload_bytes_ > 0 && (options_.decoder || into_file())) return read_aside(with_front);
  const std::span<iovec> payload(iov_.data(), iov_count_);
  if (!with_front) return reader_.read_payload(payload);
  return reader_.read_payload_and_front({iov_.data(), iov_count_ + 1});
}

// A file's pages are written, not stored to: see guest/file_write.h.
bool ReceiveChannel::into_file() const {
  return last_block_ != nullptr && last_block_->mapping->kind() == MappingKind::kFile;
}

// Reads the payload into a buffer of the channel, and from there puts it where it belongs. The peer
// may have closed the connection behind the payload, which counts all the same.
Result<bool> ReceiveChannel::read_aside(bool with_front) {
  if (!pages_ && into_file()) {
    const size_t pages = packet_pages(options_.packet_size);
    pages_ = std::make_unique_for_overwrite<uint8_t[]>(pages * kPageSize);
  }
  uint8_t* const aside = options_.decoder ? compressed_.get() : pages_.get();
  std::array<iovec, 2> iov = {iovec{aside, payload_bytes_}};
  auto more = with_front ? reader_.read_payload_and_front(iov)
                         : reader_.read_payload(std::span(iov).first(1));
  if (!more || stopping()) return more;
  const std::span<const iovec> runs(iov_.data(), iov_count_);
  if (options_.decoder) {
    if (auto decoded = decode(runs); !decoded) return decoded.error();
  }
  if (into_file()) {
    if (auto written = write_runs(runs); !written) return written.error();
  }
  return more;
}

Result<void> ReceiveChannel::decode(std::span<const iovec> runs) {
  size_t bytes = 0;
  for (const iovec& run : runs) bytes += run.iov_len;
  const iovec aside{pages_.get(), bytes};
  const bool file = into_file();
  if (!file) {
    for (const iovec& run : runs) {
      if (auto faulted = prefault(*last_block_->mapping, run); !faulted) return faulted;
    }
  }
  return options_.decoder->decode({compressed_.get(), payload_bytes_},
                                  file ? std::span(&aside, 1) : runs);
}

// What lies in `pages_`, in the order of the runs.
Result<void> ReceiveChannel::write_runs(std::span<const iovec> runs) {
  const Mapping& mapping = *last_block_->mapping;
  const uint8_t* from = pages_.get();
  for (const iovec& run : runs) {
    const auto offset = static_cast<uint64_t>(static_cast<uint8_t*>(run.iov_base) -
                                              mapping.base());
    if (auto written = write_to_file(mapping, offset, {from, run.iov_len}); !written) {
      return written;
    }
    from += run.iov_len;
  }
  return {};
}

void ReceiveChannel::publish() {
  counters_.set(ReceiveCounter::kReceivedBytes, reader_.received_bytes());
  counters_.set(ReceiveCounter::kPackets, packets_);
  counters_.set(ReceiveCounter::kNormalPages, normal_pages_);
  counters_.set(ReceiveCounter::kZeroPages, zero_pages_);
  counters_.set(ReceiveCounter::kSyncs, uint64_t{syncs_});
  counters_.set(ReceiveCounter::kDeviceStateBytes, device_state_bytes_);
  if (packets_ % 32 == 0) {  // the clock is a system call
    counters_.set(ReceiveCounter::kCpuNanoseconds, thread_cpu_nanoseconds());
  }
}

}  // namespace multifd
