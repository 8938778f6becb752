// How the pages of a multifd packet become its payload, and back: the contract of the compression
// methods. A codec sees bytes and pages and nothing else: there is no way from here to a channel's
// socket, locks, counters or flow. One encoder per sending and one decoder per receiving channel:
// their streams go on from packet to packet, so packets cannot be reordered or left out.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "base/result.h"
#include "guest/page.h"
#include "wire/packet.h"

namespace multifd {

// Bytes of the pages of a full packet.
inline constexpr size_t kPacketBytesMax = kPacketPagesMax * kPageSize;

class PayloadEncoder {
 public:
  virtual ~PayloadEncoder() = default;
  PayloadEncoder(const PayloadEncoder&) = delete;
  PayloadEncoder& operator=(const PayloadEncoder&) = delete;
  // The method's bit, for the flags of every packet that lists pages.
  [[nodiscard]] uint32_t flag() const { return flag_; }
  // The most that encode() writes; at most kPayloadBytesMax.
  [[nodiscard]] virtual size_t bytes_max() const = 0;
  // Writes the channel's next payload to the front of `out`, which has room for bytes_max(), and
  // returns its length. `runs` are whole pages, at least one and at most kPacketPagesMax, in the
  // order of the packet's offsets. The guest may write to them meanwhile: a codec looks at a page
  // once, by copying it (for_each_page_copy), because one that reads it twice, to find a match and
  // again to write it, would send a stream that yields neither the old page nor the new one, and
  // damages every later packet too. After an error the stream is broken.
  virtual Result<size_t> encode(std::span<const iovec> runs, std::span<uint8_t> out) = 0;

 protected:
  explicit PayloadEncoder(uint32_t flag) : flag_(flag) {}

 private:
  const uint32_t flag_;
};

class PayloadDecoder {
 public:
  virtual ~PayloadDecoder() = default;
  PayloadDecoder(const PayloadDecoder&) = delete;
  PayloadDecoder& operator=(const PayloadDecoder&) = delete;
  [[nodiscard]] uint32_t flag() const { return flag_; }
  // Fills `runs` (whole pages, in the order of the packet's offsets; a page may occur twice) from
  // the channel's next payload, and writes nowhere else. kProtocol if the payload is damaged,
  // yields fewer or more bytes than that, or does not end where its sender flushed; the runs then
  // hold anything. After an error the stream is broken.
  virtual Result<void> decode(std::span<const uint8_t> payload, std::span<const iovec> runs) = 0;

 protected:
  explicit PayloadDecoder(uint32_t flag) : flag_(flag) {}

 private:
  const uint32_t flag_;
};

// One row of the table of methods. No codec (null) stands for pages that travel as they are, which
// the channels send from, and receive into, guest memory itself.
struct PayloadMethod {
  const char* name = "";  // as QEMU's multifd-compression has it
  uint32_t flag = 0;
  int level_min = 0;
  int level_max = 0;
  int level_default = 0;
  Result<std::unique_ptr<PayloadEncoder>> (*make_encoder)(int level) = nullptr;
  Result<std::unique_ptr<PayloadDecoder>> (*make_decoder)() = nullptr;
};

PayloadMethod uncompressed_method();

// By name. kUnsupported: there is no such method, or not in this build; kLimit: no such level, or
// no memory. Without a level the method's default.
Result<std::unique_ptr<PayloadEncoder>> make_encoder(std::span<const PayloadMethod> methods,
                                                     std::string_view name,
                                                     std::optional<int> level);
Result<std::unique_ptr<PayloadDecoder>> make_decoder(std::span<const PayloadMethod> methods,
                                                     std::string_view name);

// Calls use(copy) with a private copy of each page in turn; ends at the first error. `buffer` has
// room for one page.
void copy_page_of(uint8_t* buffer, const iovec& run, size_t page);
template <typename Use>
Result<void> for_each_page_copy(std::span<const iovec> runs, uint8_t* buffer, Use use) {
  for (const iovec& run : runs) {
    for (size_t page = 0; page < run.iov_len / kPageSize; ++page) {
      copy_page_of(buffer, run, page);
      if (auto used = use(buffer); !used) return used;
    }
  }
  return {};
}


// What a decoder says of a payload that is not what it has to be.
Error payload_damaged(const char* method, const char* why);
Error payload_short(const char* method, std::span<const iovec> runs);
Error payload_long(const char* method, std::span<const iovec> runs);

}  // namespace multifd
