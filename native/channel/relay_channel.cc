#include "channel/relay_channel.h"

#include <algorithm>

namespace multifd {

Result<std::unique_ptr<RelayChannel>> RelayChannel::start(UniqueFd fd, RelayChannelOptions options,
                                                          std::shared_ptr<RelayPorts> ports,
                                                          Wakeup& wakeup) {
  std::unique_ptr<RelayChannel> channel(
      new RelayChannel(std::move(fd), std::move(options), std::move(ports), wakeup));
  if (auto prepared = channel->prepare(); !prepared) return prepared.error();
  const std::string name = "multifd-rly-" + std::to_string(unsigned{channel->options_.channel_id});
  if (auto started = channel->ChannelThread::start(name); !started) return started.error();
  return channel;
}

RelayChannel::RelayChannel(UniqueFd fd, RelayChannelOptions options,
                           std::shared_ptr<RelayPorts> ports, Wakeup& wakeup)
    : ChannelThread(wakeup),
      options_(std::move(options)),
      ports_(std::move(ports)),
      socket_(fd.get()),
      fd_(std::move(fd)),
      reader_(socket_, *options_.syscalls, stop_flag(), kRamHeaderSize),
      counters_(options_.counters),
      pages_(std::make_unique_for_overwrite<uint8_t[]>(kPacketBytesMax)) {
  if (options_.decoder) compressed_ = std::make_unique_for_overwrite<uint8_t[]>(kPayloadBytesMax);
}

RelayChannel::~RelayChannel() {
  destroy();
  join();
}

// A thread may be held by a port, and the relay ends as a whole: the ports stop too.
void RelayChannel::interrupt() {
  ::shutdown(socket_, SHUT_RDWR);  // the fd is closed only after join()
  ports_->stop();
  park_.release();  // the stop flag is set: the wait ends
}

void RelayChannel::release_resources() { fd_.reset(); }

void RelayChannel::run() {
  publish();
  if (auto relayed = relay(); !relayed) {
    fail(relayed.error());
  } else if (!stopping()) {
    emit(EventKind::kPeerEnd);
  }
  publish();
  counters_.set(ReceiveCounter::kCpuNanoseconds, thread_cpu_nanoseconds());
}

// Returns normally when the peer ended the stream between two packets, or when told to stop.
Result<void> RelayChannel::relay() {
  const uint32_t compression_flag = options_.decoder ? options_.decoder->flag() : 0;
  for (;;) {
    auto more = reader_.read_front();
    if (more && *more && is_device_packet(reader_.front())) return refuse_device_state();
    if (more && *more) more = reader_.read_ram_header();
    if (!more) return more.error();
    if (!*more) return {};
    if (auto parsed = parse_ram_header(reader_.ram_header(), header_, compression_flag); !parsed) {
      return parsed;
    }
    // QEMU 7.2 sends packets without pages, also behind the last SYNC: they mean nothing.
    if (header_.pages() > 0) {
      if (auto passed = pass_on(); !passed || stopping()) return passed;
    }
    ++packets_;
    normal_pages_ += header_.normal_pages;
    zero_pages_ += header_.zero_pages;
    const bool sync = (header_.flags & kFlagSync) != 0;
    if (sync) ++syncs_;
    publish();
    if (!sync) continue;
    emit(EventKind::kSyncArrived);
    if (!park_.wait(syncs_, stop_flag())) return {};
  }
}

Result<void> RelayChannel::pass_on() {
  if (auto checked = check_block(); !checked) return checked;
  const std::span<uint8_t> pages(pages_.get(), header_.normal_pages * kPageSize);
  if (!pages.empty()) {
    const std::span<uint8_t> payload =
        options_.decoder ? std::span(compressed_.get(), header_.payload_bytes) : pages;
    iovec into{payload.data(), payload.size()};
    const auto read = reader_.read_payload({&into, 1});
    if (!read) return read.error();
    if (!*read) return {};
    if (options_.decoder) {
      const iovec run{pages.data(), pages.size()};
      if (auto decoded = options_.decoder->decode(payload, {&run, 1}); !decoded) return decoded;
    }
  }
  return ports_->send(header_, pages, options_.channel_id + packets_);
}

// What a destination checks. A page in front of the setup SYNC ends QEMU 10.2 with SIGSEGV, and
// until then the blocks are not known either.
Result<void> RelayChannel::check_block() const {
  if (syncs_ == 0) {
    return Error::make(ErrorCode::kProtocol,
                       "got pages before the first SYNC packet, expected the SYNC of RAM's setup "
                       "first");
  }
  const auto& blocks = ports_->blocks();
  const auto block = std::ranges::find(blocks, header_.block(), &RelayBlock::idstr);
  if (block == blocks.end() || block->used_length == 0) {
    return Error::make(ErrorCode::kProtocol,
                       "got pages of RAM block \"%.64s\", which the main channel did not list",
                       header_.block_bytes.data());
  }
  return check_offsets(header_, block->used_length);
}

// A destination would load it in an order that is between it and the main stream, which a relay
// holds back at sync points.
Error RelayChannel::refuse_device_state() const {
  DeviceHeader header;
  if (auto parsed = parse_device_header(reader_.front(), header); !parsed) return parsed.error();
  return Error::make(ErrorCode::kUnsupported,
                     "got the state of device \"%.64s\" (instance %u), which a relay does not pass "
                     "on: switch device state over multifd off at the source",
                     header.idstr_bytes.data(), header.instance_id);
}

void RelayChannel::publish() {
  counters_.set(ReceiveCounter::kReceivedBytes, reader_.received_bytes());
  counters_.set(ReceiveCounter::kPackets, packets_);
  counters_.set(ReceiveCounter::kNormalPages, normal_pages_);
  counters_.set(ReceiveCounter::kZeroPages, zero_pages_);
  counters_.set(ReceiveCounter::kSyncs, uint64_t{syncs_});
  if (packets_ % 32 == 0) {  // the clock is a system call
    counters_.set(ReceiveCounter::kCpuNanoseconds, thread_cpu_nanoseconds());
  }
}

}  // namespace multifd
