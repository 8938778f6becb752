#include "engine/uring_engine.h"

#include <algorithm>
#include <cassert>
#include <cstdio>
#include <cstring>

#include "base/iov.h"
#include "engine/connection.h"

namespace multifd {
namespace {

// A reset connection releases at once; a second is for a machine that is busy elsewhere.
constexpr int kResetWaitMs = 1000;
// user_data of requests that have no slot: no slot has this index, whatever its generation, which
// begins again after 2^32 requests.
constexpr uint64_t kNoSlot = UINT64_MAX;

}  // namespace

Result<std::unique_ptr<UringEngine>> UringEngine::create(const UringEngineOptions& options,
                                                         const IoUringAbilities& abilities) {
  if (!abilities.io_uring) {
    return Error::make(ErrorCode::kUnsupported, "%s", abilities.io_uring.reason);
  }
  auto ring = IoUring::create({.requests = UringChain::kMax});
  if (!ring) return ring.error();
  UringSetup setup;
  setup.mode = options.mode;
  // A kernel that does not register files sends through the file descriptor.
  setup.file_registered = static_cast<bool>((*ring)->register_file(options.fd));
  setup.fixed_sendmsg = abilities.fixed_sendmsg.there;
  const auto down_to = [&setup](SendMode to, DowngradeReason reason, const char* why) {
    setup.downgrades.add(setup.mode, to, reason, why);
    setup.mode = to;
  };
  if (setup.mode == SendMode::kZeroCopyFixed) {
    if (!abilities.fixed_send) {
      down_to(SendMode::kZeroCopy, DowngradeReason::kNotInKernel, abilities.fixed_send.reason);
    } else if (options.memory == nullptr) {
      down_to(SendMode::kZeroCopy, DowngradeReason::kNotRegistered, "no memory was registered");
    } else if (auto shared = options.memory->share_with(**ring); !shared) {
      down_to(SendMode::kZeroCopy, DowngradeReason::kNotRegistered,
              std::strerror(shared.error().errno_value));
    } else {
      setup.buffers = &options.memory->buffers();
    }
  }
  // What is not registered, and what is scattered where the kernel takes one part only, goes by
  // SENDMSG_ZC; and without a report nobody could tell whether zero-copy is worth it.
  for (const Ability* needed : {&abilities.sendmsg_zero_copy, &abilities.usage_report}) {
    if (setup.mode == SendMode::kPlain || *needed) continue;
    down_to(SendMode::kPlain, DowngradeReason::kNotInKernel, needed->reason);
  }
  setup.ring = std::move(*ring);
  return std::make_unique<UringEngine>(options, std::move(setup));
}

UringEngine::UringEngine(const UringEngineOptions& options, UringSetup setup)
    : options_(options),
      gate_(*options.water_marks, counters_, *options.syscalls, options.fd),
      pool_(setup.mode == SendMode::kPlain ? 1 : kZeroCopyRecords),
      setup_(std::move(setup)) {
  free_slots_.reserve(kSlots);
  for (uint32_t i = kSlots; i > 0; --i) free_slots_.push_back(i - 1);
  for (Slot& slot : slots_) slot.generation = setup_.generation;
}

UringEngine::~UringEngine() {
  if (free_slots_.size() == kSlots) return;
  // The kernel still works on requests of this ring and may read their records: the pool leaks
  // those, and the ring is leaked with them.
  static_cast<void>(setup_.ring.release());
}

Result<SendRecord*> UringEngine::acquire() {
  for (;;) {
    if (SendRecord* const record = pool_.take(); record != nullptr) return record;
    if (auto waited = wait_for_release(); !waited) return waited.error();
  }
}

Result<void> UringEngine::submit(SendRecord& record) {
  RecordPool::begin_submit(record);
  const auto sent = send_all(record, setup_.mode != SendMode::kPlain && gate_.admit(record));
  pool_.end_submit(record);
  // Each submission took what was posted. A plain one may have been the last for long.
  if (sent && unreleased_bytes_ > 0) reap();
  return sent;
}

Result<void> UringEngine::send_all(SendRecord& record, bool zero_copy) {
  msghdr rest{};
  rest.msg_iov = record.iov.data();
  rest.msg_iovlen = record.iov_count;
  size_t left = record.bytes;
  size_t limit = SIZE_MAX;
  while (left > 0) {
    zero_copy = zero_copy && setup_.mode != SendMode::kPlain;
    const size_t bytes = zero_copy ? std::min(gate_.call_bytes(left), limit) : left;
    if (zero_copy) {
      if (auto room = make_room(bytes); !room) return room;
    }
    while (free_slots_.size() < UringChain::kMax) {
      if (auto waited = wait_for_release(); !waited) return waited;
    }
    chain_.plan(rest, bytes,
                {.zero_copy = zero_copy,
                 .buffers = setup_.mode == SendMode::kZeroCopyFixed ? setup_.buffers : nullptr,
                 .fixed_sendmsg = setup_.fixed_sendmsg});
    if (auto ran = run_chain(record); !ran) return ran;
    const auto result = chain_.outcome();
    if (!result) return result.error();
    counters_.sent_bytes += result->bytes;
    left -= result->bytes;
    advance(rest, result->bytes);
    if (result->error == 0) continue;
    if (auto handled = on_refusal(*result, zero_copy, limit); !handled) return handled;
  }
  return {};
}

Result<void> UringEngine::make_room(size_t call_bytes) {
  if (!gate_.must_wait(unreleased_bytes_, call_bytes)) return {};
  if (auto entered = setup_.ring->enter(0, 0); !entered) return entered;  // posts what is ready
  reap();
  if (!gate_.must_wait(unreleased_bytes_, call_bytes)) return {};
  if (auto flushed = flush(gate_.wait_target(call_bytes)); !flushed) return flushed;
  gate_.waited();
  return {};
}

// A slot for the link at `position`; returns the user_data of its request.
uint64_t UringEngine::take_slot(SendRecord& record, uint32_t position) {
  const UringChain::Link& link = chain_[position];
  const uint32_t index = free_slots_.back();
  free_slots_.pop_back();
  Slot& slot = slots_[index];
  slot = {.generation = slot.generation + 1,
          .record = record.index,
          .position = position,
          .bytes = link.zero_copy ? link.bytes : 0,
          .zero_copy = link.zero_copy,
          .result_due = true};
  unreleased_bytes_ += slot.bytes;
  ++record.unreleased_calls;
  ++results_due_;
  return uint64_t{slot.generation} << 32 | index;
}

// Submits the chain and waits for its results; notifications are taken as they come.
Result<void> UringEngine::run_chain(SendRecord& record) {
  for (uint32_t i = 0; i < chain_.size(); ++i) {
    io_uring_sqe* const request = setup_.ring->next_request();
    assert(request != nullptr && "a ring has room for one chain, and only one is submitted");
    chain_.fill(*request, i);
    request->user_data = take_slot(record, i);
    request->fd = options_.fd;
    if (setup_.file_registered) {
      request->fd = 0;
      request->flags |= IOSQE_FIXED_FILE;
    }
  }
  counters_.send_calls += chain_.size();
  while (results_due_ > 0) {
    if (auto entered = setup_.ring->enter(results_due_, kPollMs); !entered) return entered;
    reap();
    if (results_due_ > 0 && options_.stop->load(std::memory_order_relaxed)) return stopped();
  }
  gate_.accepted(unreleased_bytes_);
  return {};
}

// A refusal is a result, not an error, as long as there is a plainer way.
Result<void> UringEngine::on_refusal(const UringChain::Outcome& outcome, bool& zero_copy,
                                     size_t& limit) {
  if (options_.stop->load(std::memory_order_relaxed)) return stopped();
  const int error = outcome.error;
  if (error == EINTR) return {};
  if (error == EAGAIN) {
    pollfd poll{options_.fd, POLLOUT, 0};
    options_.syscalls->poll(&poll, 1, kPollMs);
    return {};
  }
  const UringChain::Link& link = *outcome.link;
  if (link.zero_copy && (error == ENOMEM || error == ENOBUFS)) {
    // Locked memory is the user's, not this ring's. While we hold some ourselves a release may
    // help. With nothing unreleased this send can never succeed: halve it, in the end copy it.
    ++counters_.refused_by_memlock;
    if (unreleased_bytes_ > 0) return wait_for_release();
    limit = link.bytes / 2;
    if (limit < kZeroCopyMinBytes) zero_copy = false;
    return {};
  }
  const bool unknown = error == EINVAL || error == EOPNOTSUPP || (link.fixed && error == EFAULT);
  if (link.zero_copy && unknown) {
    step_down(error);
    return {};
  }
  errno = error;
  return Error::from_errno("io_uring sendmsg", "sending %zu bytes failed", link.bytes);
}

void UringEngine::step_down(int error) {
  const SendMode to = setup_.mode == SendMode::kZeroCopyFixed ? SendMode::kZeroCopy
                                                              : SendMode::kPlain;
  char why[160];
  std::snprintf(why, sizeof why, "the kernel refused such a send on this connection (%s)",
                std::strerror(error));
  setup_.downgrades.add(setup_.mode, to, DowngradeReason::kSendRefused, why);
  setup_.mode = to;
}

Result<void> UringEngine::flush(size_t target_bytes) {
  // A request that failed may leave a notification without bytes; a full flush waits for it too.
  while (unreleased_bytes_ > target_bytes ||
         (target_bytes == 0 && free_slots_.size() < kSlots)) {
    if (auto waited = wait_for_release(); !waited) return waited;
  }
  return {};
}

// Returns after at least one completion, or with an error when told to stop.
Result<void> UringEngine::wait_for_release() {
  while (!reap()) {
    if (options_.stop->load(std::memory_order_relaxed)) return stopped();
    if (auto entered = setup_.ring->enter(1, kPollMs); !entered) return entered;
  }
  return {};
}

bool UringEngine::reap() {
  bool progress = false;
  Completion completion;
  while (setup_.ring->next_completion(completion)) progress = apply(completion) || progress;
  return progress;
}

// False: a completion that was not due, counted and ignored.
bool UringEngine::apply(const Completion& completion) {
  if (completion.user_data == kNoSlot) return false;
  const auto index = static_cast<uint32_t>(completion.user_data);
  const auto generation = static_cast<uint32_t>(completion.user_data >> 32);
  const bool notification = (completion.flags & IORING_CQE_F_NOTIF) != 0;
  if (notification) ++counters_.notifications;
  if (index >= kSlots || slots_[index].generation != generation ||
      !(notification ? slots_[index].notification_due : slots_[index].result_due)) {
    ++counters_.stray_notifications;
    return false;
  }
  Slot& slot = slots_[index];
  if (!notification) {
    on_result(slot, completion);
    return true;
  }
  const auto usage = static_cast<uint32_t>(completion.result);
  const bool copied = (usage & IORING_NOTIF_USAGE_ZC_COPIED) != 0;
  (copied ? counters_.copied_bytes : counters_.zero_copy_bytes) += slot.bytes;
  slot.notification_due = false;
  release(slot);
  return true;
}

void UringEngine::on_result(Slot& slot, const Completion& completion) {
  slot.result_due = false;
  --results_due_;
  chain_[slot.position].result = completion.result;
  if (!slot.zero_copy) return release(slot);
  const size_t accepted = completion.result > 0 ? static_cast<size_t>(completion.result) : 0;
  const size_t kept = std::min(accepted, slot.bytes);
  unreleased_bytes_ -= slot.bytes - kept;
  slot.bytes = kept;
  // The flag, not the result, says whether a notification follows: also a failed request may have
  // one, and an accepted one that the kernel copied in the end may have none.
  if ((completion.flags & IORING_CQE_F_MORE) != 0) {
    slot.notification_due = true;
    return;
  }
  counters_.copied_bytes += kept;
  release(slot);
}

void UringEngine::release(Slot& slot) {
  unreleased_bytes_ -= slot.bytes;
  slot.bytes = 0;
  free_slots_.push_back(static_cast<uint32_t>(&slot - slots_.data()));
  pool_.call_released(slot.record);
}

// A request that waits for room in the socket would wait for ever.
void UringEngine::cancel_all() {
  if (io_uring_sqe* const request = setup_.ring->next_request(); request != nullptr) {
    request->opcode = IORING_OP_ASYNC_CANCEL;
    request->fd = -1;
    request->cancel_flags = IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY;
    request->user_data = kNoSlot;
  }
}

bool UringEngine::reset() {
  dissolve(options_.fd);
  if (results_due_ > 0) cancel_all();
  for (int waited_ms = 0; free_slots_.size() < kSlots && waited_ms < kResetWaitMs;) {
    if (reap()) continue;
    if (!setup_.ring->enter(1, 1)) break;  // the ring itself is broken
    ++waited_ms;
  }
  return free_slots_.size() == kSlots;
}

}  // namespace multifd
