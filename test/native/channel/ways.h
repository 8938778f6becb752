// The ways in which RAM is sent, for tests that hold for all of them, and what this kernel can do
// of io_uring's.
#pragma once

#include <string>

#include "channel_fixture.h"

namespace fixture {

struct Way {
  const char* name;
  EngineKind engine;
  bool zero_copy;
  bool registered;
};
inline constexpr Way kWays[] = {
    {"sendmsg, copied", EngineKind::kSendmsg, false, false},
    {"sendmsg, zero-copy", EngineKind::kSendmsg, true, false},
    {"splice", EngineKind::kSplice, true, false},
    {"io_uring, copied", EngineKind::kIoUring, false, false},
    {"io_uring, zero-copy", EngineKind::kIoUring, true, false},
    {"io_uring, registered", EngineKind::kIoUring, true, true},
};

struct NamedTracker {
  TrackerKind kind;
  std::string name;
};
inline const NamedTracker kTrackers[] = {{TrackerKind::kUserfaultfd, "userfaultfd"},
                                             {TrackerKind::kVmm, "the VMM's log"},
                                             {TrackerKind::kHash, "hashes"}};

// Probed once.
inline const IoUringAbilities& io_uring() {
  static const IoUringAbilities abilities = multifd::probe_io_uring();
  return abilities;
}

}  // namespace fixture
