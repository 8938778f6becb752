// Whether zero-copy sends through one network interface are really not copied, found by sending one
// datagram with MSG_ZEROCOPY and reading what its notification says. Needs no peer and no channel,
// and leaves nothing open. It shows the transmit path of this machine and nothing beyond: that the
// bytes arrive, or that a TCP connection takes this interface, it cannot know.
#pragma once

#include <cstddef>
#include <cstdint>

namespace multifd {

enum class PathVerdict : uint8_t {
  kNotCopied,   // the interface took the pages themselves
  kCopied,      // the kernel copied after all
  kUnanswered,  // no notification in time: the driver holds on to what it has sent
  kRefused,     // nothing could be sent; `reason` says why
};

inline constexpr const char* kPathVerdictNames[] = {"not-copied", "copied", "unanswered",
                                                    "refused"};

struct PathProbe {
  PathVerdict verdict = PathVerdict::kRefused;
  char reason[224] = {};     // a sentence; empty for the first two verdicts
  size_t payload_bytes = 0;  // of the datagram: what the MTU allows, 16 KiB at most
};

// Any thread; half a second at most. The datagram holds zeros and goes to the discard port of the
// group of all hosts on the link (224.0.0.1, or ff02::1 where the interface has no IPv4 address),
// with a hop limit of 1, so no router passes it on and nobody answers; on the loopback, to the
// sending socket itself. All hosts, because a peer on this machine (the other end of a veth) copies
// only what it takes in: to a group without members, its drop would look as if nothing was copied.
PathProbe probe_path(const char* interface_name);

}  // namespace multifd
