// What the relay's tests share: sources that send packets, ports that are read, and the relay
// between them, driven from the test's thread as JavaScript would.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <thread>

#include "channel/relay_channel.h"
#include "channel_fixture.h"
#include "fake_codec.h"

namespace relay_fixture {

using namespace fixture;  // NOLINT

constexpr uint64_t kPages = 600;
constexpr const char* kBlock = "pc.ram";

struct Packet {
  RamHeader header;
  std::vector<uint64_t> values;  // the first word of each normal page
};
// Per page: its value, or none for a zero page. A second one of the same page is a mistake.
using Epoch = std::map<uint64_t, std::optional<uint64_t>>;

inline void write_all(int fd, const std::vector<uint8_t>& bytes) {
  size_t at = 0;
  while (at < bytes.size()) {
    const ssize_t put = ::send(fd, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
    if (put <= 0) return;  // what the relay did to the connection is looked at elsewhere
    at += static_cast<size_t>(put);
  }
}

// Appends packets to a channel's stream; the encoder, if any, is that channel's.
class Writer {
 public:
  explicit Writer(bool compressed) {
    if (compressed) encoder_ = std::make_unique<fake_codec::Encoder>();
  }
  void packet(const std::vector<uint64_t>& offsets, const std::vector<uint64_t>& values,
              const std::vector<uint64_t>& zeros, uint32_t flags = 0) {
    std::vector<uint8_t> payload(values.size() * kPageSize);
    for (size_t i = 0; i < values.size(); ++i) fill_page(&payload[i * kPageSize], values[i]);
    RamPacket packet{.flags = flags, .packet_num = 77, .block = kBlock, .normal = offsets,
                     .zero = zeros};
    if (encoder_ && offsets.size() + zeros.size() > 0) {
      packet.flags |= encoder_->flag();
      if (!payload.empty()) {
        std::vector<uint8_t> encoded(encoder_->bytes_max());
        const iovec run{payload.data(), payload.size()};
        const auto size = encoder_->encode({&run, 1}, encoded);
        CHECK_OK(size);
        encoded.resize(*size);
        payload = encoded;
        packet.compressed_bytes = static_cast<uint32_t>(*size);
      }
    }
    std::array<uint8_t, kRamHeaderSize> header;
    fill_ram_header(header, packet);
    bytes.insert(bytes.end(), header.begin(), header.end());
    bytes.insert(bytes.end(), payload.begin(), payload.end());
  }
  void sync() { packet({}, {}, {}, kFlagSync); }
  // As QEMU 7.2 sends it: nothing in it, but a size that stands for nothing.
  void empty() {
    packet({}, {}, {});
    bytes[bytes.size() - kRamHeaderSize + 22] = 0x10;
  }
  std::vector<uint8_t> bytes;

 private:
  std::unique_ptr<fake_codec::Encoder> encoder_;
};

// The destination's end of one port: reads packets until the relay closes it.
class Reader {
 public:
  Reader(UniqueFd fd, bool compressed) : fd_(std::move(fd)) {
    if (compressed) decoder_ = std::make_unique<fake_codec::Decoder>();
  }
  ~Reader() {
    if (thread_.joinable()) thread_.join();
  }
  void start() {
    thread_ = std::thread([this] { read(); });
  }
  void join() { thread_.join(); }
  std::vector<Packet> packets;

 private:
  bool read_exactly(uint8_t* at, size_t size) const {
    return ::recv(fd_.get(), at, size, MSG_WAITALL) == static_cast<ssize_t>(size);
  }
  void read() {
    std::array<uint8_t, kRamHeaderSize> header;
    std::vector<uint8_t> payload(kPayloadBytesMax);
    std::vector<uint8_t> pages(kPacketBytesMax);
    while (read_exactly(header.data(), header.size())) {
      Packet& packet = packets.emplace_back();
      CHECK_OK(parse_ram_header(header, packet.header, decoder_ ? decoder_->flag() : 0));
      const size_t size = packet.header.payload_bytes;
      if (size > 0) CHECK(read_exactly(payload.data(), size));
      const iovec run{pages.data(), packet.header.normal_pages * kPageSize};
      if (decoder_ && size > 0) CHECK_OK(decoder_->decode({payload.data(), size}, {&run, 1}));
      if (!decoder_) std::copy_n(payload.data(), size, pages.data());
      for (uint32_t i = 0; i < packet.header.normal_pages; ++i) {
        uint64_t value = 0;
        std::memcpy(&value, &pages[i * kPageSize], sizeof value);
        CHECK(page_holds(&pages[i * kPageSize], value));
        packet.values.push_back(value);
      }
    }
  }
  UniqueFd fd_;
  std::unique_ptr<fake_codec::Decoder> decoder_;
  std::thread thread_;
};

// A relay between `channels` sources and `ports` destinations, driven from the test's thread.
class Relay {
 public:
  struct Setup {
    size_t channels = 2;
    size_t ports = 2;
    bool compressed_in = false;
    bool compressed_out = false;
    bool ports_are_read = true;
  };
  explicit Relay(const Setup& setup)
      : cells_(setup.ports * static_cast<size_t>(RelayPortCounter::kCount)) {
    std::vector<std::unique_ptr<PayloadEncoder>> encoders;
    std::vector<UniqueFd> sockets;
    for (size_t i = 0; i < setup.ports; ++i) {
      encoders.push_back(setup.compressed_out ? std::make_unique<fake_codec::Encoder>() : nullptr);
      auto [ours, theirs] = unix_pair();
      sockets.push_back(std::move(ours));
      readers.push_back(std::make_unique<Reader>(std::move(theirs), setup.compressed_out));
      if (setup.ports_are_read) readers.back()->start();
    }
    RelayPortsOptions port_options;
    port_options.counters = cells_.data();
    auto created = RelayPorts::create(std::move(port_options), std::move(encoders));
    CHECK_OK(created);
    ports = *created;
    ports->adopt(std::move(sockets));
    ports->set_blocks({{kBlock, kPages * kPageSize}});
    for (size_t i = 0; i < setup.channels; ++i) {
      auto& source = sources_.emplace_back(std::make_unique<Source>());
      auto [ours, theirs] = unix_pair();
      source->fd = std::move(ours);
      RelayChannelOptions options{.channel_id = static_cast<uint8_t>(i),
                                  .decoder = nullptr,
                                  .counters = source->cells.data()};
      if (setup.compressed_in) options.decoder = std::make_unique<fake_codec::Decoder>();
      auto started =
          RelayChannel::start(std::move(theirs), std::move(options), ports, source->wakeup);
      CHECK_OK(started);
      source->channel = std::move(*started);
    }
  }
  ~Relay() {
    for (auto& source : sources_) source->channel.reset();
    for (auto& source : sources_) {
      if (source->thread.joinable()) source->thread.join();
    }
    ports.reset();  // closes the sockets: readers come to their end
  }

  // The source's side of channel i sends these bytes, and closes if that is asked for.
  void feed(size_t i, std::vector<uint8_t> bytes, bool close) {
    Source& source = *sources_[i];
    source.thread = std::thread([&source, bytes = std::move(bytes), close] {
      write_all(source.fd.get(), bytes);
      if (close) source.fd.reset();
    });
  }
  void expect(size_t i, EventKind kind) { sources_[i]->wakeup.expect(channel(i), kind); }
  Event next(size_t i) { return sources_[i]->wakeup.next(channel(i)); }
  RelayChannel& channel(size_t i) { return *sources_[i]->channel; }
  double received(size_t i, ReceiveCounter counter) { return cell(sources_[i]->cells, counter); }
  double sent(size_t port, RelayPortCounter counter) {
    constexpr auto kWidth = static_cast<size_t>(RelayPortCounter::kCount);
    return cells_[port * kWidth + static_cast<size_t>(counter)].load();
  }
  // What JavaScript does at a sync point.
  void pass_sync_point() {
    for (size_t i = 0; i < sources_.size(); ++i) expect(i, EventKind::kSyncArrived);
    CHECK_OK(ports->sync_out());
    for (auto& source : sources_) source->channel->release_sync();
  }
  // Ends the relay, so that every reader has all that was sent to it.
  void end() {
    ports->stop();
    for (auto& reader : readers) reader->join();
  }

  std::shared_ptr<RelayPorts> ports;
  std::vector<std::unique_ptr<Reader>> readers;

 private:
  struct Source {
    UniqueFd fd;
    std::thread thread;
    TestWakeup wakeup;
    ReceiveCells cells{};
    std::unique_ptr<RelayChannel> channel;
  };
  std::vector<CounterCell> cells_;
  std::vector<std::unique_ptr<Source>> sources_;
};

}  // namespace relay_fixture
