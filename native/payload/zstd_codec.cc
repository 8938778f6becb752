// Compression with zstd: one frame per channel that is never ended, a whole number of blocks per
// packet. The library is the system's, if it was there when this was built (MULTIFD_ZSTD).
#include "payload/payload.h"

#ifdef MULTIFD_ZSTD
#include <zstd.h>

#include <array>
#endif

namespace multifd {

PayloadMethod zstd_method();

namespace {

constexpr const char* kName = "zstd";
constexpr uint32_t kFlag = 0x04;  // QEMU: MULTIFD_FLAG_ZSTD

#ifdef MULTIFD_ZSTD

// The window that a frame may ask for, as a power of two: 128 MiB, what every zstd decoder takes
// unasked. Level 20 uses 32 MiB. Memory becomes resident only as far as a stream fills it.
constexpr int kWindowLogMax = 27;
constexpr size_t kBlockHeaderBytes = 3;  // RFC 8878, 3.1.1.2

Error no_memory(const char* what) {
  return Error::make(ErrorCode::kLimit, "zstd's %s failed: is memory exhausted?", what);
}

class ZstdEncoder final : public PayloadEncoder {
 public:
  explicit ZstdEncoder(ZSTD_CCtx* stream) : PayloadEncoder(kFlag), stream_(stream) {}
  ~ZstdEncoder() override { ZSTD_freeCCtx(stream_); }
  // ZSTD_compressBound() covers block headers; the frame's is in the first payload only.
  [[nodiscard]] size_t bytes_max() const override {
    return ZSTD_compressBound(kPacketBytesMax) + kOpeningBytesMax;
  }

  Result<size_t> encode(std::span<const iovec> runs, std::span<uint8_t> out) override {
    ZSTD_outBuffer output{out.data(), out.size(), 0};
    auto encoded = for_each_page_copy(runs, page_.data(), [&](uint8_t* page) {
      return feed(output, {page, kPageSize, 0}, ZSTD_e_continue);
    });
    if (encoded) encoded = feed(output, {page_.data(), 0, 0}, ZSTD_e_flush);
    if (!encoded) return encoded.error();
    return output.pos;
  }

 private:
  static constexpr size_t kOpeningBytesMax = 18;

  // All of the input, and with ZSTD_e_flush all of the output too.
  Result<void> feed(ZSTD_outBuffer& output, ZSTD_inBuffer input, ZSTD_EndDirective directive) {
    for (;;) {
      const size_t left = ZSTD_compressStream2(stream_, &output, &input, directive);
      if (ZSTD_isError(left)) {
        return Error::make(ErrorCode::kLimit, "zstd could not compress a packet: %s",
                           ZSTD_getErrorName(left));
      }
      if (input.pos == input.size && (directive == ZSTD_e_continue || left == 0)) return {};
      if (output.pos == output.size) {
        return Error::make(ErrorCode::kLimit, "zstd compressed a packet to more than its bound");
      }
    }
  }
  ZSTD_CCtx* const stream_;
  std::array<uint8_t, kPageSize> page_;
};

class ZstdDecoder final : public PayloadDecoder {
 public:
  explicit ZstdDecoder(ZSTD_DCtx* stream) : PayloadDecoder(kFlag), stream_(stream) {}
  ~ZstdDecoder() override { ZSTD_freeDCtx(stream_); }

  Result<void> decode(std::span<const uint8_t> payload, std::span<const iovec> runs) override {
    if (const char* const wrong = check_blocks(payload); wrong != nullptr) {
      return payload_damaged(kName, wrong);
    }
    ZSTD_inBuffer input{payload.data(), payload.size(), 0};
    for (const iovec& run : runs) {
      ZSTD_outBuffer output{run.iov_base, run.iov_len, 0};
      while (output.pos < output.size) {
        const size_t before = input.pos + output.pos;
        if (auto advanced = advance(output, input); !advanced) return advanced;
        // Without progress, and not because the output is full: nothing is left.
        if (input.pos + output.pos == before) return payload_short(kName, runs);
      }
    }
    return finish(input, runs);
  }

 private:
  Result<void> advance(ZSTD_outBuffer& output, ZSTD_inBuffer& input) {
    const size_t result = ZSTD_decompressStream(stream_, &output, &input);
    if (ZSTD_isError(result)) return payload_damaged(kName, ZSTD_getErrorName(result));
    return {};
  }

  // Nothing that is left may yield a byte: the blocks are whole, so all of them end here.
  Result<void> finish(ZSTD_inBuffer& input, std::span<const iovec> runs) {
    uint8_t surplus = 0;
    ZSTD_outBuffer output{&surplus, 1, 0};
    for (;;) {
      const size_t before = input.pos;
      if (auto advanced = advance(output, input); !advanced) return advanced;
      if (output.pos > 0) return payload_long(kName, runs);
      if (input.pos == input.size) return {};
      if (input.pos == before) return payload_damaged(kName, "it does not end with a flush");
    }
  }

  // A payload is whole blocks of one frame that goes on; the library would also take half a block,
  // another frame, or a skippable one, and would leave what is behind the end of a frame unread.
  // Null: so it is, else what is wrong.
  const char* check_blocks(std::span<const uint8_t> payload) {
    size_t at = 0;
    if (!began_) {
      at = opening_bytes(payload);
      if (at == 0 || at > payload.size()) return "it does not begin with a zstd frame";
      began_ = true;
    }
    while (at < payload.size()) {
      if (payload.size() - at < kBlockHeaderBytes) return "it does not end with a flush";
      const uint32_t header =
          payload[at] | uint32_t{payload[at + 1]} << 8 | uint32_t{payload[at + 2]} << 16;
      if ((header & 1) != 0) return "the frame was ended";
      const bool repeats = (header >> 1 & 3) == 1;  // one byte, however long the block
      at += kBlockHeaderBytes + (repeats ? 1 : header >> 3);
    }
    return at == payload.size() ? nullptr : "it does not end with a flush";
  }

  // The length of the header in front of the first block (RFC 8878, 3.1.1.1); 0: this is no frame.
  static size_t opening_bytes(std::span<const uint8_t> payload) {
    constexpr std::array<uint8_t, 4> kMagic = {0x28, 0xb5, 0x2f, 0xfd};
    constexpr std::array<size_t, 4> kDictionaryBytes = {0, 1, 2, 4};
    constexpr std::array<size_t, 4> kContentBytes = {0, 2, 4, 8};
    if (payload.size() <= kMagic.size()) return 0;
    for (size_t i = 0; i < kMagic.size(); ++i) {
      if (payload[i] != kMagic[i]) return 0;
    }
    const uint8_t descriptor = payload[kMagic.size()];
    const bool single = (descriptor & 0x20) != 0;
    const size_t content_code = descriptor >> 6;
    const size_t content = content_code == 0 && single ? 1 : kContentBytes[content_code];
    return kMagic.size() + 1 + (single ? 0 : 1) + kDictionaryBytes[descriptor & 3] + content;
  }

  ZSTD_DCtx* const stream_;
  bool began_ = false;
};

Result<std::unique_ptr<PayloadEncoder>> make_zstd_encoder(int level) {
  ZSTD_CCtx* const stream = ZSTD_createCCtx();
  if (stream == nullptr) return no_memory("ZSTD_createCCtx");
  auto encoder = std::make_unique<ZstdEncoder>(stream);  // frees the stream
  if (ZSTD_isError(ZSTD_CCtx_setParameter(stream, ZSTD_c_compressionLevel, level))) {
    return no_memory("ZSTD_CCtx_setParameter");
  }
  return std::unique_ptr<PayloadEncoder>(std::move(encoder));
}

Result<std::unique_ptr<PayloadDecoder>> make_zstd_decoder() {
  ZSTD_DCtx* const stream = ZSTD_createDCtx();
  if (stream == nullptr) return no_memory("ZSTD_createDCtx");
  auto decoder = std::make_unique<ZstdDecoder>(stream);  // frees the stream
  if (ZSTD_isError(ZSTD_DCtx_setParameter(stream, ZSTD_d_windowLogMax, kWindowLogMax))) {
    return no_memory("ZSTD_DCtx_setParameter");
  }
  return std::unique_ptr<PayloadDecoder>(std::move(decoder));
}

#else

Error not_built() {
  return Error::make(ErrorCode::kUnsupported,
                     "compression method zstd is not in this build: install the library "
                     "(apt-get install libzstd-dev), then build the addon again (npm rebuild, or "
                     "npm run build in a checkout)");
}

Result<std::unique_ptr<PayloadEncoder>> make_zstd_encoder(int) { return not_built(); }
Result<std::unique_ptr<PayloadDecoder>> make_zstd_decoder() { return not_built(); }

#endif

}  // namespace

PayloadMethod zstd_method() {
  return {.name = kName,
          .flag = kFlag,
          .level_min = 0,
          .level_max = 20,
          .level_default = 1,
          .make_encoder = make_zstd_encoder,
          .make_decoder = make_zstd_decoder};
}

}  // namespace multifd
