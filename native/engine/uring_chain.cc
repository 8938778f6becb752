#include "engine/uring_chain.h"

#include <algorithm>

#include "engine/engine.h"

namespace multifd {
namespace {

// A header between pages is copied. No less than this: a record of kZeroCopyMinBytes is cut evenly,
// into calls of half of that at least, and a small high-water mark must not switch zero-copy off.
constexpr size_t kLinkMinBytes = kZeroCopyMinBytes / 2;

}  // namespace

void UringChain::plan(const msghdr& rest, size_t limit, const ChainRules& rules) {
  const bool fixed = rules.zero_copy && rules.buffers != nullptr;
  link_count_ = 0;
  part_count_ = 0;
  iovec part{};
  for (size_t i = 0; limit > 0 && (part.iov_len > 0 || i < rest.msg_iovlen);) {
    if (part.iov_len == 0) {
      part = rest.msg_iov[i++];
      continue;
    }
    FixedBuffers::Part found;
    const bool registered = fixed && rules.buffers->find(part.iov_base, found);
    size_t bytes = std::min(part.iov_len, limit);
    if (registered) bytes = std::min(bytes, found.bytes);
    Link* link = link_count_ > 0 ? &links_[link_count_ - 1] : nullptr;
    if (link == nullptr || link->fixed != registered ||
        (registered && link->buffer != found.buffer)) {
      if (link_count_ == kMax) break;  // the rest is the next chain
      link = &links_[link_count_++];
      *link = {.first_part = part_count_, .buffer = found.buffer, .fixed = registered};
    }
    parts_[part_count_++] = {part.iov_base, bytes};
    ++link->part_count;
    link->bytes += bytes;
    limit -= bytes;
    part = {static_cast<uint8_t*>(part.iov_base) + bytes, part.iov_len - bytes};
  }
  for (uint32_t i = 0; i < link_count_; ++i) {
    Link& link = links_[i];
    link.zero_copy = rules.zero_copy && link.bytes >= kLinkMinBytes;
    link.fixed = link.fixed && link.zero_copy && (link.part_count == 1 || rules.fixed_sendmsg);
  }
}

void UringChain::fill(io_uring_sqe& request, uint32_t position) {
  const Link& link = links_[position];
  const bool last = position + 1 == link_count_;
  request.flags = last ? 0 : IOSQE_IO_LINK;
  // With MSG_WAITALL the kernel itself goes on after a short send, and one that it cannot go on
  // with breaks the chain. MSG_MORE: what follows belongs to the same packets on the wire.
  request.msg_flags = static_cast<uint32_t>(MSG_NOSIGNAL | MSG_WAITALL) |
                      (last ? 0U : static_cast<uint32_t>(MSG_MORE));
  if (link.zero_copy) request.ioprio = IORING_SEND_ZC_REPORT_USAGE;
  if (link.fixed) {
    request.ioprio = IORING_SEND_ZC_REPORT_USAGE | IORING_RECVSEND_FIXED_BUF;
    request.buf_index = static_cast<uint16_t>(link.buffer);
  }
  const iovec& first = parts_[link.first_part];
  if (link.zero_copy && link.part_count == 1) {
    request.opcode = IORING_OP_SEND_ZC;
    request.addr = reinterpret_cast<uint64_t>(first.iov_base);
    request.len = static_cast<uint32_t>(first.iov_len);
    return;
  }
  msghdr& message = msghdrs_[position];
  message = {};
  message.msg_iov = &parts_[link.first_part];
  message.msg_iovlen = link.part_count;
  request.opcode = link.zero_copy ? IORING_OP_SENDMSG_ZC : IORING_OP_SENDMSG;
  request.addr = reinterpret_cast<uint64_t>(&message);
  request.len = 1;
}

Result<UringChain::Outcome> UringChain::outcome() const {
  Outcome outcome;
  bool broken = false;
  for (uint32_t i = 0; i < link_count_; ++i) {
    const Link& link = links_[i];
    const size_t sent = link.result > 0 ? static_cast<size_t>(link.result) : 0;
    if (sent > link.bytes || (broken && sent > 0)) {
      return Error::make(ErrorCode::kChannel, "io_uring sent %zu bytes of a request of %zu %s",
                         sent, link.bytes, broken ? "behind one that came short" : "");
    }
    outcome.bytes += sent;
    broken = broken || sent < link.bytes;
    // What came before or after the failure was only cancelled.
    if (link.result < 0 && (outcome.error == 0 || outcome.error == ECANCELED)) {
      outcome.error = -link.result;
      outcome.link = &link;
    }
  }
  if (outcome.error == ECANCELED && outcome.bytes > 0) outcome.error = 0;  // short, then cancelled
  if (broken && outcome.bytes == 0 && outcome.error == 0) outcome.error = EINTR;
  return outcome;
}

}  // namespace multifd
