// Compression with zlib: one stream per channel that is never finished, flushed at the end of each
// packet. The library is the one inside Node: its header came with Node, and its functions are
// looked up in the running program, so that nothing has to be installed and nothing is linked.
#include <dlfcn.h>
#include <zlib.h>

#include <array>
#include <optional>
#include <string>
#include <type_traits>

#include "payload/payload.h"

namespace multifd {

PayloadMethod zlib_method();

namespace {

constexpr const char* kName = "zlib";
constexpr uint32_t kFlag = 0x02;  // QEMU: MULTIFD_FLAG_ZLIB
// z_stream::data_type after inflate() (zlib.h): between two blocks, the last block, bits unused.
constexpr int kBetweenBlocks = 128, kLastBlock = 64, kUnusedBits = 63;
// What Z_SYNC_FLUSH adds to what deflateBound() knows of: an empty stored block, twice over.
constexpr size_t kFlushBytes = 16;

struct Zlib {
  decltype(&::deflateInit_) deflate_init = nullptr;
  decltype(&::deflate) deflate = nullptr;
  decltype(&::deflateEnd) deflate_end = nullptr;
  decltype(&::deflateBound) deflate_bound = nullptr;
  decltype(&::inflateInit_) inflate_init = nullptr;
  decltype(&::inflate) inflate = nullptr;
  decltype(&::inflateEnd) inflate_end = nullptr;
};

// All of one family, or none: Node 20 also exports a few of zlib's plain names, from another copy.
std::optional<Zlib> find_family(const std::string& prefix) {
  Zlib zlib;
  bool complete = true;
  const auto find = [&](auto& function, const char* name) {
    void* const address = ::dlsym(RTLD_DEFAULT, (prefix + name).c_str());
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(address);
    complete = complete && address != nullptr;
  };
  find(zlib.deflate_init, "deflateInit_");
  find(zlib.deflate, "deflate");
  find(zlib.deflate_end, "deflateEnd");
  find(zlib.deflate_bound, "deflateBound");
  find(zlib.inflate_init, "inflateInit_");
  find(zlib.inflate, "inflate");
  find(zlib.inflate_end, "inflateEnd");
  if (!complete) return std::nullopt;
  return zlib;
}

// Node's own zlib has Chromium's prefix; a Node built with the system's has none.
const Zlib* find_zlib() {
  static const std::optional<Zlib> zlib = [] {
    auto found = find_family("Cr_z_");
    return found ? found : find_family("");
  }();
  return zlib ? &*zlib : nullptr;
}

Error no_zlib() {
  return Error::make(ErrorCode::kUnsupported,
                     "this Node exports no zlib, which compression method zlib uses: run a Node "
                     "from nodejs.org or the distribution, or use another method");
}

Error not_started(const char* what, int result) {
  return Error::make(ErrorCode::kLimit, "zlib's %s failed with %d: is memory exhausted?", what,
                     result);
}

class ZlibEncoder final : public PayloadEncoder {
 public:
  explicit ZlibEncoder(const Zlib& zlib) : PayloadEncoder(kFlag), zlib_(zlib) {}
  ~ZlibEncoder() override { zlib_.deflate_end(&stream_); }
  int start(int level) {
    return zlib_.deflate_init(&stream_, level, ZLIB_VERSION, static_cast<int>(sizeof stream_));
  }
  // deflateBound() only reads the stream, though its parameter does not say so.
  [[nodiscard]] size_t bytes_max() const override {
    return zlib_.deflate_bound(const_cast<z_stream*>(&stream_), kPacketBytesMax) + kFlushBytes;
  }

  Result<size_t> encode(std::span<const iovec> runs, std::span<uint8_t> out) override {
    stream_.next_out = out.data();
    stream_.avail_out = static_cast<uInt>(out.size());
    auto encoded = for_each_page_copy(runs, page_.data(), [this](uint8_t* page) -> Result<void> {
      stream_.next_in = page;
      stream_.avail_in = kPageSize;
      const int result = zlib_.deflate(&stream_, Z_NO_FLUSH);
      if (result != Z_OK || stream_.avail_in != 0) return failed(result);
      return {};
    });
    if (!encoded) return encoded.error();
    const int result = zlib_.deflate(&stream_, Z_SYNC_FLUSH);
    // With no room left over there may be more to come (zlib.h).
    if (result != Z_OK || stream_.avail_out == 0) return failed(result);
    return out.size() - stream_.avail_out;
  }

 private:
  // The room is as large as zlib says that the worst needs: a mistake of ours.
  static Error failed(int result) {
    return Error::make(ErrorCode::kLimit, "zlib compressed a packet to more than its bound (%d)",
                       result);
  }
  const Zlib& zlib_;
  z_stream stream_{};
  std::array<uint8_t, kPageSize> page_;
};

class ZlibDecoder final : public PayloadDecoder {
 public:
  explicit ZlibDecoder(const Zlib& zlib) : PayloadDecoder(kFlag), zlib_(zlib) {}
  ~ZlibDecoder() override { zlib_.inflate_end(&stream_); }
  int start() {
    return zlib_.inflate_init(&stream_, ZLIB_VERSION, static_cast<int>(sizeof stream_));
  }

  Result<void> decode(std::span<const uint8_t> payload, std::span<const iovec> runs) override {
    stream_.next_in = const_cast<uint8_t*>(payload.data());  // only read
    stream_.avail_in = static_cast<uInt>(payload.size());
    for (const iovec& run : runs) {
      stream_.next_out = static_cast<uint8_t*>(run.iov_base);
      stream_.avail_out = static_cast<uInt>(run.iov_len);
      while (stream_.avail_out > 0) {
        const int result = zlib_.inflate(&stream_, Z_SYNC_FLUSH);
        if (result == Z_BUF_ERROR) return payload_short(kName, runs);  // no progress
        if (result != Z_OK) return refused(result);
      }
    }
    return finish(runs);
  }

 private:
  // Reads what is behind the last page: the flush, and nothing that yields a byte.
  Result<void> finish(std::span<const iovec> runs) {
    uint8_t surplus = 0;
    stream_.next_out = &surplus;
    stream_.avail_out = 1;
    // Not without input: a call that begins between two blocks forgets that it stands there, and
    // the call that filled the last page may have read the flush, too.
    while (stream_.avail_in > 0 && stream_.avail_out > 0) {
      if (const int result = zlib_.inflate(&stream_, Z_SYNC_FLUSH); result != Z_OK) {
        return refused(result);
      }
    }
    if (stream_.avail_out == 0) return payload_long(kName, runs);
    const int state = stream_.data_type;
    if (stream_.avail_in == 0 && (state & kBetweenBlocks) != 0 &&
        (state & (kLastBlock | kUnusedBits)) == 0) {
      return {};
    }
    return payload_damaged(kName, "it does not end with a flush");
  }
  [[nodiscard]] Error refused(int result) const {
    if (result == Z_STREAM_END) return payload_damaged(kName, "the stream was finished");
    if (result == Z_MEM_ERROR) return not_started("inflate", result);
    return payload_damaged(kName, stream_.msg != nullptr ? stream_.msg : "it is no zlib stream");
  }
  const Zlib& zlib_;
  z_stream stream_{};
};

Result<std::unique_ptr<PayloadEncoder>> make_zlib_encoder(int level) {
  const Zlib* const zlib = find_zlib();
  if (zlib == nullptr) return no_zlib();
  auto encoder = std::make_unique<ZlibEncoder>(*zlib);
  if (const int result = encoder->start(level); result != Z_OK) {
    return not_started("deflateInit", result);
  }
  return std::unique_ptr<PayloadEncoder>(std::move(encoder));
}

Result<std::unique_ptr<PayloadDecoder>> make_zlib_decoder() {
  const Zlib* const zlib = find_zlib();
  if (zlib == nullptr) return no_zlib();
  auto decoder = std::make_unique<ZlibDecoder>(*zlib);
  if (const int result = decoder->start(); result != Z_OK) {
    return not_started("inflateInit", result);
  }
  return std::unique_ptr<PayloadDecoder>(std::move(decoder));
}

}  // namespace

PayloadMethod zlib_method() {
  return {.name = kName,
          .flag = kFlag,
          .level_min = 0,
          .level_max = 9,
          .level_default = 1,
          .make_encoder = make_zlib_encoder,
          .make_decoder = make_zlib_decoder};
}

}  // namespace multifd
