// GuestMemory for JavaScript: RAM blocks over WebAssembly memory, anonymous memory, a memfd or a
// file; views of them; tokens, by which another environment of the same process finds them.
#include "binding/guest_memory.h"

#include <map>
#include <mutex>

#include "binding/work.h"

namespace multifd::binding {
namespace {

// Tokens of live memories. The one thing that environments share on purpose (a VMM on the main
// thread, the migration in a worker); holds no memory alive.
class TokenRegistry {
 public:
  double add(const std::shared_ptr<GuestMemory>& memory) {
    const std::lock_guard lock(mutex_);
    memories_.emplace(++last_, memory);
    return static_cast<double>(last_);
  }
  std::shared_ptr<GuestMemory> find(uint64_t token) {
    const std::lock_guard lock(mutex_);
    const auto found = memories_.find(token);
    if (found == memories_.end()) return nullptr;
    auto memory = found->second.lock();
    if (!memory) memories_.erase(found);
    return memory;
  }

 private:
  std::mutex mutex_;
  std::map<uint64_t, std::weak_ptr<GuestMemory>> memories_;
  uint64_t last_ = 0;
};

TokenRegistry& tokens() {
  static TokenRegistry registry;
  return registry;
}

Result<std::shared_ptr<Mapping>> map_block(const Napi::Object& block) {
  const std::string kind = get_string(block, "kind");
  const auto size = static_cast<size_t>(get_uint64(block, "sizeBytes"));
  if (kind == "anonymous") return Mapping::allocate(size, get_bool(block, "hugePages"));
  if (kind == "memfd") return Mapping::open_memfd(get_string(block, "idstr"), size);
  if (kind == "file") {
    const std::string path = get_string(block, "path");
    return get_bool(block, "readOnly") ? Mapping::open_file_read_only(path, size)
                                       : Mapping::open_file(path, size);
  }
  const Napi::Value buffer = block.Get("buffer");
  if (!buffer.IsArrayBuffer()) {
    return Error::make(ErrorCode::kUnsupported, "the block has no memory of a known kind");
  }
  auto memory = buffer.As<Napi::ArrayBuffer>();
  const uint64_t offset = get_uint64(block, "offsetBytes");
  if (offset > memory.ByteLength() || size > memory.ByteLength() - offset) {
    return Error::make(ErrorCode::kLimit,
                       "RAM at %llu, %zu bytes long, does not fit the memory's %zu bytes",
                       static_cast<unsigned long long>(offset), size, memory.ByteLength());
  }
  return Mapping::external(static_cast<uint8_t*>(memory.Data()) + offset, size);
}

}  // namespace

const napi_type_tag GuestMemoryWrap::kTag = {0x6d756c7469666401, 1};

std::vector<GuestMemoryWrap::PropertyDescriptor> GuestMemoryWrap::methods() {
  return {
      InstanceAccessor("token", &GuestMemoryWrap::token, nullptr),
      InstanceMethod("blocks", &GuestMemoryWrap::blocks),
      InstanceMethod("empty", &GuestMemoryWrap::empty),
      InstanceMethod("discard", &GuestMemoryWrap::discard),
      InstanceMethod("view", &GuestMemoryWrap::view),
      InstanceMethod("populatedBytes", &GuestMemoryWrap::populated_bytes),
      InstanceMethod("isAt", &GuestMemoryWrap::is_at),
      InstanceMethod("close", &GuestMemoryWrap::close),
  };
}

Napi::Value GuestMemoryWrap::create(const Napi::CallbackInfo& info) {
  const auto list = info[0].As<Napi::Array>();
  std::vector<RamBlock> blocks;
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const auto entry = list.Get(i).As<Napi::Object>();
    auto mapping = map_block(entry);
    if (!mapping) return to_js(info.Env(), mapping.error());
    const uint64_t size = (*mapping)->size_bytes();
    blocks.push_back({get_string(entry, "idstr"), std::move(*mapping), 0, size});
  }
  auto memory = GuestMemory::create(std::move(blocks));
  if (!memory) return to_js(info.Env(), memory.error());
  Environment::of(info.Env()).own(*memory);
  // The array holds the WebAssembly.Memory objects, and so the memory behind them.
  Napi::Object object = make(info.Env(), std::move(*memory), list);
  from(object)->is_owner_ = true;
  return object;
}

Napi::Value GuestMemoryWrap::from_token(const Napi::CallbackInfo& info) {
  auto memory = tokens().find(to_uint64(info[0]));
  if (!memory) {
    return to_js(info.Env(), Error::make(ErrorCode::kClosed,
                                         "the token names no guest memory of this process: its "
                                         "owner closed it, or it came from another process"));
  }
  return make(info.Env(), std::move(memory));
}

Napi::Value GuestMemoryWrap::token(const Napi::CallbackInfo& info) {
  if (token_ == 0 && state_) token_ = tokens().add(state_);
  return Napi::Number::New(info.Env(), token_);
}

Napi::Value GuestMemoryWrap::blocks(const Napi::CallbackInfo& info) {
  Napi::Array list = Napi::Array::New(info.Env());
  if (!state_) return list;
  uint32_t index = 0;
  for (const RamBlock& block : state_->blocks()) {
    Napi::Object entry = Napi::Object::New(info.Env());
    entry.Set("idstr", block.idstr);
    entry.Set("usedLength", static_cast<double>(block.used_length));
    list.Set(index++, entry);
  }
  return list;
}

Napi::Value GuestMemoryWrap::empty(const Napi::CallbackInfo& info) {
  return run_leased<bool>(
      info.Env(), "multifd.empty", state_,
      [memory = state_]() -> Result<bool> {
        if (auto emptied = memory->empty(); !emptied) return emptied.error();
        return true;
      },
      [](Napi::Env env, bool) { return env.Undefined(); });
}

// discard(block, firstPage, pageCount): undefined or an error.
Napi::Value GuestMemoryWrap::discard(const Napi::CallbackInfo& info) {
  if (!state_) return info.Env().Undefined();
  auto discarded = state_->discard(static_cast<uint32_t>(to_uint64(info[0])),
                                   {to_uint64(info[1]), to_uint64(info[2])});
  if (!discarded) return to_js(info.Env(), discarded.error());
  return info.Env().Undefined();
}

// The bytes of block `info[0]`: an ArrayBuffer over the mapping itself.
Napi::Value GuestMemoryWrap::view(const Napi::CallbackInfo& info) {
  const auto index = static_cast<size_t>(to_uint64(info[0]));
  if (!state_ || index >= state_->blocks().size()) return info.Env().Null();
  const RamBlock& block = state_->blocks()[index];
  if (block.mapping->read_only()) return info.Env().Null();  // a write would end the program
  auto* const keep = new std::shared_ptr<Mapping>(block.mapping);
  return Napi::ArrayBuffer::New(
      info.Env(), block.host(), block.used_length,
      [](Napi::Env, void*, std::shared_ptr<Mapping>* kept) { delete kept; }, keep);
}

Napi::Value GuestMemoryWrap::populated_bytes(const Napi::CallbackInfo& info) {
  return run_leased<uint64_t>(
      info.Env(), "multifd.populated", state_,
      [memory = state_]() -> Result<uint64_t> {
        uint64_t pages = 0;
        std::vector<PageRange> ranges;
        for (const RamBlock& block : memory->blocks()) {
          ranges.clear();
          if (auto found = block.populated({0, block.page_count()}, ranges); !found) {
            return found.error();
          }
          for (const PageRange& range : ranges) pages += range.count;
        }
        return pages * kPageSize;
      },
      [](Napi::Env env, uint64_t bytes) -> Napi::Value {
        return Napi::Number::New(env, static_cast<double>(bytes));
      });
}

// isAt(blockIndex, arrayBuffer, offsetBytes): whether WebAssembly memory that grew is still where
// it was registered.
Napi::Value GuestMemoryWrap::is_at(const Napi::CallbackInfo& info) {
  const auto index = static_cast<size_t>(to_uint64(info[0]));
  const bool same = state_ && index < state_->blocks().size() && info[1].IsArrayBuffer() &&
                    static_cast<uint8_t*>(info[1].As<Napi::ArrayBuffer>().Data()) +
                            to_uint64(info[2]) == state_->blocks()[index].host();
  return Napi::Boolean::New(info.Env(), same);
}

// close([ArrayBuffer]): detaches the views and lets go of the memory; the owner's stops its users.
void GuestMemoryWrap::close(const Napi::CallbackInfo& info) {
  if (!state_) return;
  const auto views = info[0].As<Napi::Array>();
  for (uint32_t i = 0; i < views.Length(); ++i) views.Get(i).As<Napi::ArrayBuffer>().Detach();
  if (is_owner_) {
    state_->revoke();
    Environment::of(info.Env()).disown(state_);
  }
  state_.reset();
  drop_kept();
}

}  // namespace multifd::binding
