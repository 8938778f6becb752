// A compression method for tests: small, with state that goes on from packet to packet, and strict.
// A payload is its sequence number and, per page, either a zero byte and the page, or a one and the
// byte that all of the page is.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>

#include "payload/payload.h"

namespace fake_codec {

inline constexpr uint32_t kFlag = 0x20;
inline constexpr int kDefaultLevel = 3;

class Encoder final : public multifd::PayloadEncoder {
 public:
  Encoder() : PayloadEncoder(kFlag) {}
  [[nodiscard]] size_t bytes_max() const override {
    return 1 + multifd::kPacketPagesMax * (1 + multifd::kPageSize);
  }
  multifd::Result<size_t> encode(std::span<const iovec> runs, std::span<uint8_t> out) override {
    size_t used = 0;
    out[used++] = sequence_++;
    std::array<uint8_t, multifd::kPageSize> buffer;
    auto encoded = multifd::for_each_page_copy(
        runs, buffer.data(), [&](const uint8_t* page) -> multifd::Result<void> {
          const bool uniform = std::all_of(page, page + multifd::kPageSize,
                                           [page](uint8_t byte) { return byte == page[0]; });
          const size_t size = uniform ? 1 : multifd::kPageSize;
          out[used++] = uniform;
          std::memcpy(&out[used], page, size);
          used += size;
          return {};
        });
    if (!encoded) return encoded.error();
    return used;
  }

 private:
  uint8_t sequence_ = 0;
};

class Decoder final : public multifd::PayloadDecoder {
 public:
  Decoder() : PayloadDecoder(kFlag) {}
  multifd::Result<void> decode(std::span<const uint8_t> payload,
                               std::span<const iovec> runs) override {
    if (payload.empty() || payload[0] != sequence_++) {
      return multifd::payload_damaged("fake", "a packet is missing");
    }
    size_t at = 1;
    for (const iovec& run : runs) {
      for (size_t done = 0; done < run.iov_len; done += multifd::kPageSize) {
        const size_t size = at < payload.size() && payload[at] == 1 ? 1 : multifd::kPageSize;
        if (payload.size() < at + 1 + size) return multifd::payload_short("fake", runs);
        auto* const page = static_cast<uint8_t*>(run.iov_base) + done;
        if (size == 1) std::fill_n(page, multifd::kPageSize, payload[at + 1]);
        if (size != 1) std::memcpy(page, &payload[at + 1], size);
        at += 1 + size;
      }
    }
    return at == payload.size() ? multifd::Result<void>() : multifd::payload_long("fake", runs);
  }

 private:
  uint8_t sequence_ = 0;
};

inline multifd::PayloadMethod method() {
  using multifd::Result;
  return {.name = "fake",
          .flag = kFlag,
          .level_min = 1,
          .level_max = 5,
          .level_default = kDefaultLevel,
          .make_encoder = [](int level) -> Result<std::unique_ptr<multifd::PayloadEncoder>> {
            if (level == 5) return multifd::Error::make(multifd::ErrorCode::kLimit, "no memory");
            return std::unique_ptr<multifd::PayloadEncoder>(std::make_unique<Encoder>());
          },
          .make_decoder = []() -> Result<std::unique_ptr<multifd::PayloadDecoder>> {
            return std::unique_ptr<multifd::PayloadDecoder>(std::make_unique<Decoder>());
          }};
}

}  // namespace fake_codec
