#include "binding/ram_state.h"

#include "binding/guest_memory.h"
#include "binding/work.h"

namespace multifd::binding {
namespace {

// Of one answer of takeZeroRuns(): 24 bytes each.
constexpr size_t kZeroRunsMax = 1 << 16;

Error closed_memory() {
  return Error::make(ErrorCode::kClosed, "the guest memory was closed");
}

std::shared_ptr<GuestMemory> memory_of(const std::shared_ptr<RamState>& ram) {
  return ram ? ram->memory().shared_from_this() : nullptr;
}

PageRange to_range(const Napi::Value& first, const Napi::Value& count) {
  return {to_uint64(first), to_uint64(count)};
}

}  // namespace

const napi_type_tag RamStateWrap::kTag = {0x6d756c7469666401, 2};
const napi_type_tag DirtyLogWrap::kTag = {0x6d756c7469666401, 3};

std::vector<RamStateWrap::PropertyDescriptor> RamStateWrap::methods() {
  return {
      InstanceAccessor("tracker", &RamStateWrap::tracker, nullptr),
      InstanceMethod("start", &RamStateWrap::start),
      InstanceMethod("beginRound", &RamStateWrap::begin_round),
      InstanceMethod("extendRound", &RamStateWrap::extend_round),
      InstanceMethod("giveBack", &RamStateWrap::give_back),
      InstanceMethod("plan", &RamStateWrap::plan),
      InstanceMethod("takeZeroRuns", &RamStateWrap::take_zero_runs),
      InstanceMethod("collectIntoNext", &RamStateWrap::collect_into_next),
      InstanceMethod("close", &RamStateWrap::close),
  };
}

Napi::Value RamStateWrap::create(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  GuestMemoryWrap* const memory = GuestMemoryWrap::from(info[0]);
  if (memory == nullptr || !memory->state()) return to_js(env, closed_memory());
  Result<std::unique_ptr<DirtyTracker>> tracker = closed_memory();
  if (DirtyLogWrap* const log = DirtyLogWrap::from(info[1]); log != nullptr) {
    if (!log->state().tracker) {
      return to_js(env, Error::make(ErrorCode::kClosed,
                                    "the dirty log was used by a migration before: make a new one "
                                    "for each migration"));
    }
    tracker = std::move(log->state().tracker);
  } else if (info[1].IsString() && info[1].As<Napi::String>().Utf8Value() == "hash") {
    tracker = make_hash_tracker(memory->state());
  } else {
    tracker = make_uffd_tracker(memory->state());
  }
  if (!tracker) return to_js(env, tracker.error());
  auto ram = RamState::create(memory->state(), std::move(*tracker));
  if (!ram) return to_js(env, ram.error());
  return make(env, std::move(*ram), info[0].As<Napi::Object>());
}

Napi::Value RamStateWrap::tracker(const Napi::CallbackInfo& info) {
  if (!state_) return info.Env().Null();
  return Napi::String::New(info.Env(), std::string(state_->tracker().name()));
}

Napi::Value RamStateWrap::start(const Napi::CallbackInfo& info) {
  return run_leased<bool>(
      info.Env(), "multifd.start", memory_of(state_),
      [ram = state_]() -> Result<bool> {
        if (auto started = ram->start(); !started) return started.error();
        return true;
      },
      [](Napi::Env env, bool) { return env.Undefined(); });
}

// Promise<number of pages> of a scan over all memory.
Napi::Value RamStateWrap::scan(Napi::Env env, std::function<Result<uint64_t>(RamState&)> work) {
  return run_leased<uint64_t>(
      env, "multifd.scan", memory_of(state_),
      [ram = state_, work = std::move(work)] { return work(*ram); },
      [](Napi::Env result_env, uint64_t pages) -> Napi::Value {
        return Napi::Number::New(result_env, static_cast<double>(pages));
      });
}

Napi::Value RamStateWrap::begin_round(const Napi::CallbackInfo& info) {
  return scan(info.Env(), &RamState::begin_round);
}

Napi::Value RamStateWrap::extend_round(const Napi::CallbackInfo& info) {
  return scan(info.Env(), &RamState::extend_round);
}

Napi::Value RamStateWrap::collect_into_next(const Napi::CallbackInfo& info) {
  return scan(info.Env(), &RamState::collect_into_next);
}

// giveBack("current" | "previous", (Uint8Array | null)[]): Promise<number of pages>.
Napi::Value RamStateWrap::give_back(const Napi::CallbackInfo& info) {
  const bool previous = info[0].IsString() && info[0].As<Napi::String>().Utf8Value() == "previous";
  const auto which =
      previous ? RamState::BegunRound::kPrevious : RamState::BegunRound::kCurrent;
  // Copied: JavaScript may write to its arrays while the work runs.
  std::vector<ReceivedPages> received;
  if (info[1].IsArray()) {
    const auto bitmaps = info[1].As<Napi::Array>();
    received.resize(bitmaps.Length());
    for (uint32_t i = 0; i < bitmaps.Length(); ++i) {
      const Napi::Value bitmap = bitmaps[i];
      if (!bitmap.IsTypedArray()) continue;
      const auto bytes = bitmap.As<Napi::Uint8Array>();
      received[i].emplace(bytes.Data(), bytes.Data() + bytes.ByteLength());
    }
  }
  return scan(info.Env(), [which, received = std::move(received)](RamState& ram) {
    return ram.give_back(which, received);
  });
}

// plan(targetDirtyBytes): Promise<Float64Array> of block, first page, page count, dirty pages.
Napi::Value RamStateWrap::plan(const Napi::CallbackInfo& info) {
  const uint64_t target_bytes = to_uint64(info[0]);
  return run_leased<std::vector<Extent>>(
      info.Env(), "multifd.plan", memory_of(state_),
      [ram = state_, target_bytes]() -> Result<std::vector<Extent>> {
        return ram->plan(target_bytes);
      },
      [](Napi::Env env, const std::vector<Extent>& extents) -> Napi::Value {
        auto list = Napi::Float64Array::New(env, extents.size() * 4);
        double* at = list.Data();
        for (const Extent& extent : extents) {
          *at++ = extent.block;
          *at++ = static_cast<double>(extent.first_page);
          *at++ = static_cast<double>(extent.page_count);
          *at++ = static_cast<double>(extent.dirty_pages);
        }
        return list;
      });
}

// takeZeroRuns(): Promise<Float64Array> of block, first page, page count.
Napi::Value RamStateWrap::take_zero_runs(const Napi::CallbackInfo& info) {
  return run_leased<std::vector<BlockRun>>(
      info.Env(), "multifd.takeZeroRuns", memory_of(state_),
      [ram = state_]() -> Result<std::vector<BlockRun>> {
        return ram->take_zero_runs(kZeroRunsMax);
      },
      [](Napi::Env env, const std::vector<BlockRun>& runs) -> Napi::Value {
        auto list = Napi::Float64Array::New(env, runs.size() * 3);
        double* at = list.Data();
        for (const auto& [block, pages] : runs) {
          *at++ = block;
          *at++ = static_cast<double>(pages.first);
          *at++ = static_cast<double>(pages.count);
        }
        return list;
      });
}

void RamStateWrap::close(const Napi::CallbackInfo&) {
  state_.reset();
  drop_kept();
}

std::vector<DirtyLogWrap::PropertyDescriptor> DirtyLogWrap::methods() {
  return {
      InstanceMethod("mark", &DirtyLogWrap::mark),
      InstanceMethod("orBytes", &DirtyLogWrap::or_bytes),
      InstanceMethod("close", &DirtyLogWrap::close),
  };
}

Napi::Value DirtyLogWrap::create(const Napi::CallbackInfo& info) {
  GuestMemoryWrap* const memory = GuestMemoryWrap::from(info[0]);
  if (memory == nullptr || !memory->state()) return to_js(info.Env(), closed_memory());
  auto tracker = make_vmm_tracker(memory->state());
  if (!tracker) return to_js(info.Env(), tracker.error());
  return make(info.Env(), std::move(*tracker), info[0].As<Napi::Object>());
}

// mark(block, firstPage, pageCount); checked in TypeScript.
void DirtyLogWrap::mark(const Napi::CallbackInfo& info) {
  if (!state_.log) return;
  state_.log->mark(static_cast<uint32_t>(to_uint64(info[0])), to_range(info[1], info[2]));
}

// orBytes(block, firstPage, Uint8Array).
void DirtyLogWrap::or_bytes(const Napi::CallbackInfo& info) {
  if (!state_.log || !info[2].IsTypedArray()) return;
  const auto bytes = info[2].As<Napi::Uint8Array>();
  state_.log->or_bytes(static_cast<uint32_t>(to_uint64(info[0])), to_uint64(info[1]),
                       bytes.Data(), bytes.ByteLength());
}

// Gives the bitmaps back at once instead of when the object is collected.
void DirtyLogWrap::close(const Napi::CallbackInfo&) {
  state_ = VmmTracker();
  drop_kept();
}

}  // namespace multifd::binding
