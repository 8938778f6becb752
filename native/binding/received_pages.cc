#include "binding/received_pages.h"

#include <bit>
#include <cstring>

#include "binding/channels.h"
#include "binding/work.h"
#include "channel/main_channel_pages.h"

namespace multifd::binding {
namespace {

Napi::Value undefined_or_error(Napi::Env env, const Result<void>& result) {
  return result ? env.Undefined() : to_js(env, result.error());
}

Napi::Value closed(Napi::Env env) {
  return to_js(env, Error::make(ErrorCode::kClosed, "the receive group was closed"));
}

}  // namespace

// applyZeroRun(block, firstPage, pageCount): undefined or an error.
Napi::Value ReceiveGroupWrap::apply_zero_run(const Napi::CallbackInfo& info) {
  if (!state_) return closed(info.Env());
  const auto block = static_cast<uint32_t>(to_uint64(info[0]));
  const PageRange run{to_uint64(info[1]), to_uint64(info[2])};
  return undefined_or_error(info.Env(), multifd::apply_zero_run(*state_, block, run));
}

// applyPages(block, firstPage, bytes): undefined or an error.
Napi::Value ReceiveGroupWrap::apply_pages(const Napi::CallbackInfo& info) {
  if (!state_) return closed(info.Env());
  const auto block = static_cast<uint32_t>(to_uint64(info[0]));
  if (!info[2].IsTypedArray()) return closed(info.Env());
  const auto bytes = info[2].As<Napi::Uint8Array>();
  return undefined_or_error(info.Env(),
                            multifd::apply_pages(*state_, block, to_uint64(info[1]),
                                                 {bytes.Data(), bytes.ByteLength()}));
}

// receivedSinceSync(block): a Uint8Array, little-endian, whole 64-bit words; empty after close().
Napi::Value ReceiveGroupWrap::received_since_sync(const Napi::CallbackInfo& info) {
  const uint64_t block = to_uint64(info[0]);
  if (!state_ || block >= state_->received_since_sync.size()) {
    return Napi::Uint8Array::New(info.Env(), 0);
  }
  const DirtyBitmap& bitmap = state_->received_since_sync[block];
  auto bytes = Napi::Uint8Array::New(info.Env(), bitmap.word_count() * sizeof(uint64_t));
  static_assert(std::endian::native == std::endian::little);
  const uint64_t words = bitmap.word_count();
  // The array is zeroed, and most of a bitmap is.
  for (uint64_t index = bitmap.next_dirty_word(0, words); index < words;
       index = bitmap.next_dirty_word(index + 1, words)) {
    const uint64_t word = bitmap.word(index).load(std::memory_order_relaxed);
    std::memcpy(bytes.Data() + index * sizeof word, &word, sizeof word);
  }
  return bytes;
}

void ReceiveGroupWrap::clear_received_since_sync(const Napi::CallbackInfo&) {
  if (state_) state_->clear_received_since_sync();
}

Napi::Value file_data_ranges(const Napi::CallbackInfo& info) {
  using Ranges = std::vector<PageRange>;
  const std::string path = info[0].As<Napi::String>().Utf8Value();
  const auto size_bytes = static_cast<size_t>(to_uint64(info[1]));
  return run_work<Ranges>(
      info.Env(), "multifd.fileDataRanges",
      [path, size_bytes]() -> Result<Ranges> {
        const auto mapping = Mapping::open_file_read_only(path, size_bytes);
        if (!mapping) return mapping.error();
        Ranges ranges;
        auto found = (*mapping)->populated({0, size_bytes / kPageSize}, ranges);
        if (!found) return found.error();
        return ranges;
      },
      [](Napi::Env env, const Ranges& ranges) -> Napi::Value {
        auto pairs = Napi::Float64Array::New(env, ranges.size() * 2);
        size_t at = 0;
        for (const PageRange& range : ranges) {
          pairs[at++] = static_cast<double>(range.first * kPageSize);
          pairs[at++] = static_cast<double>(range.count * kPageSize);
        }
        return pairs;
      });
}

}  // namespace multifd::binding
